//! What a process costs, as Linux counts it in `/proc`.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

/// Linux shows times to programs in hundredths of a second, on every platform.
const TICK: Duration = Duration::from_millis(10);

/// Resident memory of a process, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmRSS:")
}

/// The most resident memory a process has had so far, in bytes.
///
/// # Errors
/// When there is no such process.
pub fn peak_resident_bytes(pid: u32) -> Result<u64> {
    status_bytes(pid, "VmHWM:")
}

fn status_bytes(pid: u32, name: &str) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line
        .and_then(|rest| rest.trim().strip_suffix(" kB"))
        .with_context(|| format!("no {name} in the process status"))?;
    Ok(kilobytes.trim().parse::<u64>()? * 1024)
}

/// Processor time a process has used, in user and system mode.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    Ok(Stat::read(pid)?.own)
}

/// Processor time of a process and all its children, those that ended included.
///
/// # Errors
/// When there is no such process.
pub fn cpu_time_with_children(pid: u32) -> Result<Duration> {
    let parent = Stat::read(pid)?;
    let mut total = parent.own + parent.ended_children;
    for entry in fs::read_dir(Path::new("/proc"))? {
        let name = entry?.file_name();
        let Some(child) = name.to_str().and_then(|name| name.parse().ok()) else {
            continue;
        };
        // A process that ended meanwhile is counted with its parent next time.
        if let Ok(stat) = Stat::read(child)
            && stat.parent == pid
        {
            total += stat.own;
        }
    }
    Ok(total)
}

/// The process that started another.
///
/// # Errors
/// When there is no such process.
pub fn parent(pid: u32) -> Result<u32> {
    Ok(Stat::read(pid)?.parent)
}

struct Stat {
    parent: u32,
    own: Duration,
    ended_children: Duration,
}

impl Stat {
    fn read(pid: u32) -> Result<Self> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat"))?;
        // The second field is the name in parentheses, and may hold anything.
        let (_, rest) = text.rsplit_once(") ").context("malformed process stat")?;
        let fields: Vec<&str> = rest.split(' ').collect();
        // Numbered from 1 in proc(5); the first of `fields` is number 3 there.
        let field = |number: usize| fields.get(number - 3).copied().unwrap_or("0");
        let ticks = |number: usize| -> Result<u32> { Ok(field(number).parse()?) };
        Ok(Self {
            parent: field(4).parse()?,
            own: TICK * (ticks(14)? + ticks(15)?),
            ended_children: TICK * (ticks(16)? + ticks(17)?),
        })
    }
}
