//! What the machine says of processes and of itself. Linux only.

use std::fs;
use std::time::Duration;

/// Ticks of `/proc` in a second, on every Linux that anybody runs.
const TICKS_PER_SECOND: u64 = 100;

/// User and system time of a process and its threads so far; the steps are 10 ms.
pub(crate) fn cpu(pid: u32) -> Duration {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("the process runs, on a Linux");
    // The name of the program may hold anything, in brackets.
    let (_, fields) = stat.rsplit_once(") ").expect("a stat line");
    let ticks: u64 = fields.split(' ').skip(11).take(2).map(|ticks| ticks.parse::<u64>().expect("ticks")).sum();
    Duration::from_millis(ticks * 1_000 / TICKS_PER_SECOND)
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
