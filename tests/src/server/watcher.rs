//! Ends the servers of a test process that was itself killed, and so could not.

use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{ChildStdin, Command, Stdio};
use std::sync::{LazyLock, Mutex};

/// Reads `+ <pid> <folder>` and `- <pid>`; at the end of its input, which is the
/// end of the test process however that came, it kills and removes what is left.
const SCRIPT: &str = r#"
left=
while read -r sign pid folder; do
    case $sign in
        +) left="$left $pid:$folder" ;;
        -) left=$(printf '%s' "$left" | sed "s| $pid:[^ ]*||") ;;
    esac
done
for one in $left; do
    kill -9 "${one%%:*}"
    rm -rf "${one#*:}"
done
"#;

#[allow(
    clippy::zombie_processes,
    reason = "it ends after this process, which therefore can't wait for it"
)]
static WATCHER: LazyLock<Mutex<ChildStdin>> = LazyLock::new(|| {
    let mut shell = Command::new("sh")
        .args(["-c", SCRIPT])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        // What is sent to the group of the tests is not meant for it.
        .process_group(0)
        .spawn()
        .expect("sh");
    Mutex::new(shell.stdin.take().unwrap())
});

fn tell(line: &str) {
    let mut watcher = WATCHER
        .lock()
        .unwrap_or_else(std::sync::PoisonError::into_inner);
    let _ = writeln!(watcher, "{line}");
}

/// A server was started on this folder.
pub(crate) fn started(pid: u32, folder: &Path) {
    tell(&format!("+ {pid} {}", folder.display()));
}

/// It has ended.
pub(crate) fn ended(pid: u32) {
    tell(&format!("- {pid}"));
}
