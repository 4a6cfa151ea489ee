//! How the process's allocator treats memory. jemalloc reads this symbol when it starts; `_RJEM_MALLOC_CONF` in the
//! environment goes before it.

/// - `narenas`: a sidecar has a control thread and two workers that never free each other's blocks; an arena for each
///   core of a large machine would only spread the holes.
/// - `dirty_decay_ms`, `muzzy_decay_ms`: pages that a burst of load has dirtied go back to the kernel within a second.
/// - `background_thread`: also when nobody allocates any more.
/// - `thp`: a heap of a few megabytes must not be rounded up to huge pages where the kernel makes them unasked.
#[used]
#[unsafe(export_name = "_rjem_malloc_conf")]
static MALLOC_CONF: &[u8; 105] = CONF;

const CONF: &[u8; 105] =
    b"narenas:2,dirty_decay_ms:1000,muzzy_decay_ms:0,background_thread:true,max_background_threads:1,thp:never\0";
