//! How long somebody waited until what he wanted to say was sent, and why.

use std::fmt::Write as _;

use tests::history::{Connection, End, History, Moment, What};

/// From when somebody wanted to say something until he was told that it is sent.
#[derive(Debug)]
pub(super) struct Wait {
    pub(super) user: i64,
    pub(super) stamp: String,
    pub(super) said_at: Moment,
    pub(super) told_at: Moment,
}

impl Wait {
    /// Milliseconds.
    pub(super) fn took(&self) -> Moment {
        self.told_at - self.said_at
    }

    /// What happened meanwhile: which programs were restarted, and what became of his
    /// connections. Times are milliseconds since he wanted to say it.
    pub(super) fn story(&self, history: &History) -> String {
        let mut story = format!(
            "{} of {} was sent after {} ms:",
            self.stamp,
            self.user,
            self.took()
        );
        let since = |at: Moment| at - self.said_at;
        let meanwhile =
            |began: Moment, ended: Moment| began <= self.told_at && ended >= self.said_at;
        for fault in &history.faults {
            if meanwhile(fault.began, fault.ended) {
                let (began, ended) = (since(fault.began), since(fault.ended));
                let _ = write!(story, "\n  {began} to {ended}: {} restarts", fault.target);
            }
        }
        for visit in &history.connections {
            let ended = visit.ended.as_ref().map_or(Moment::MAX, |(at, _)| *at);
            if visit.user == self.user && meanwhile(visit.opened, ended) {
                story.push_str(&self.visit(visit));
            }
        }
        story
    }

    fn visit(&self, visit: &Connection) -> String {
        let since = |at: Moment| at - self.said_at;
        let mut line = format!("\n  {}: gateway {}", since(visit.opened), visit.gateway);
        if let Some(at) = visit.signed_in {
            let _ = write!(line, ", signed in {}", since(at));
        }
        for event in &visit.events {
            let what = match &event.what {
                What::Emitted { stamp, .. } if *stamp == self.stamp => "emitted".to_owned(),
                What::Shown(message) if message.stamp == self.stamp => "shown".to_owned(),
                What::Failed { stamp, code } if *stamp == self.stamp => format!("failed ({code})"),
                What::Refused { code } => format!("sign-in refused ({code})"),
                _ => continue,
            };
            let _ = write!(line, ", {what} {}", since(event.at));
        }
        match &visit.ended {
            Some((at, End::ByServer(why))) => {
                let _ = write!(line, ", ended {} ({why})", since(*at));
            }
            Some((at, End::ByClient)) => {
                let _ = write!(line, ", left {}", since(*at));
            }
            None => {}
        }
        line
    }
}
