//! What the machine says of processes: their CPU time and memory. Linux only.

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

/// A line of its memory in KiB, such as `VmHWM` (the most that was ever resident) or `VmRSS`.
pub(crate) fn memory_kib(pid: u32, line: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs, on a Linux");
    let found = status.lines().find_map(|text| text.strip_prefix(line)?.strip_prefix(':'));
    found.and_then(|text| text.split_whitespace().next()?.parse().ok()).expect("a line of memory")
}

/// Cores that this process may use.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}
