//! Black-box suites: real binaries, real clients, real servers.
