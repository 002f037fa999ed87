//! Memory that is not needed any more.

/// From this many bytes on, what is freed goes back to the kernel at once.
#[cfg(target_env = "gnu")]
const LARGE: libc::c_int = 1 << 20;

/// Lets large pieces of memory go back to the kernel as soon as they are free. glibc keeps pieces of up to 32 MiB for later once
/// one of that size was freed, and every step on the way from a text of prefixes to what the kernel looks up frees several
/// that no later step has a use for: a policy of a million prefixes took a quarter more. To be called before there are threads.
pub fn give_back_what_is_large() {
    #[cfg(target_env = "gnu")]
    {
        // SAFETY: it sets a number of the allocator's, and there is no other thread yet.
        let set = unsafe { libc::mallopt(libc::M_MMAP_THRESHOLD, LARGE) };
        if set == 0 {
            log::debug!("cannot tell the allocator to give back what is large");
        }
    }
}
