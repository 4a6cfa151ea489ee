//! How traffic is spread over priorities, by the health of each (Envoy: priority levels, overprovisioning, panic).

/// Envoy's overprovisioning factor, in percent: a level counts as well while 100 / 1.4 percent of its hosts are.
const OVERPROVISIONING: usize = 140;

/// The hosts of one priority.
#[derive(Clone, Copy, Debug)]
pub(super) struct Health {
    /// All.
    pub(super) total: usize,
    /// Those that may be picked.
    pub(super) available: usize,
}

/// Percent of the traffic for each priority, and whether it uses all its hosts whatever their health.
pub(super) fn spread(levels: &[Health], panic_percent: u32) -> (Vec<u32>, Vec<bool>) {
    let scores: Vec<u32> = levels.iter().map(score).collect();
    let sum = scores.iter().sum::<u32>().min(100);
    let panics = |level: &Health| sum < 100 && level.available * 100 < level.total * panic_percent as usize;
    let panic: Vec<bool> = levels.iter().map(panics).collect();
    if sum == 0 {
        return (by_size(levels, &panic), panic);
    }
    let mut left = 100;
    let mut loads: Vec<u32> = scores
        .iter()
        .map(|score| {
            let load = (score * 100 / sum).min(left);
            left -= load;
            load
        })
        .collect();
    // What rounding left over goes to the first that has any.
    if let Some(first) = loads.iter_mut().find(|load| **load > 0) {
        *first += left;
    }
    (loads, panic)
}

fn score(level: &Health) -> u32 {
    let percent = (level.available * OVERPROVISIONING).checked_div(level.total).unwrap_or(0);
    u32::try_from(percent.min(100)).unwrap_or(100)
}

/// Nobody is well: levels in panic share by their number of hosts.
fn by_size(levels: &[Health], panic: &[bool]) -> Vec<u32> {
    let sizes: Vec<usize> = levels.iter().zip(panic).map(|(l, panic)| if *panic { l.total } else { 0 }).collect();
    let sum: usize = sizes.iter().sum();
    let share = |size: &usize| (size * 100).checked_div(sum).and_then(|s| u32::try_from(s).ok()).unwrap_or(0);
    let mut loads: Vec<u32> = sizes.iter().map(share).collect();
    let given: u32 = loads.iter().sum();
    if let Some(first) = loads.iter_mut().find(|load| **load > 0) {
        *first += 100 - given;
    }
    loads
}
