//! A team of threads for many short pieces of parallel work in a row.
//!
//! Decoding one token is a hundred parallel sections of some 100 microseconds. A rayon section costs about that much to
//! start and to join on its own; the members of a team keep watching for the next section for a moment before they go to
//! sleep. A team belongs to one caller, and each section ends before [`Team::for_each_chunk`] returns.

use std::any::Any;
use std::marker::PhantomData;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::{self, JoinHandle, Thread};

/// Looks at the door before a thread goes to sleep: some 50 microseconds. Longer would steal time from others on a busy
/// machine; waking a sleeper takes about as long.
const NUM_LOOKS: usize = 2000;

/// A section's work: called with the number of each member.
type Work<'a> = &'a (dyn Fn(usize) + Sync);

/// What members share.
struct Door {
    /// Counts sections: a member goes in once for each.
    section: AtomicUsize,
    /// A `Work`, alive while its section lasts.
    work: AtomicPtr<()>,
    /// Members that have not come out yet.
    inside: AtomicUsize,
    closed: AtomicBool,
    panic: Mutex<Option<Box<dyn Any + Send>>>,
}

/// Threads that work together with the caller's own, which is always the one that made the team: it is the one that is
/// woken at a section's end. Hence a team cannot be sent to another thread.
pub struct Team {
    door: Arc<Door>,
    members: Vec<JoinHandle<()>>,
    next: Vec<Counter>,
    _stays: PhantomData<*const ()>,
}

/// The next chunk of a member's share; a cache line of its own.
#[derive(Default)]
#[repr(align(64))]
struct Counter(AtomicUsize);

impl Team {
    /// A team of so many threads, the caller among them. If the system refuses a thread, the team is smaller.
    pub fn new(num_threads: usize) -> Self {
        let door = Arc::new(Door {
            section: AtomicUsize::new(0),
            work: AtomicPtr::new(std::ptr::null_mut()),
            inside: AtomicUsize::new(0),
            closed: AtomicBool::new(false),
            panic: Mutex::new(None),
        });
        let caller = thread::current();
        let start = |number: usize| {
            let (door, caller) = (Arc::clone(&door), caller.clone());
            thread::Builder::new().name(format!("team-{number}")).spawn(move || serve(&door, number, &caller)).ok()
        };
        let members: Vec<JoinHandle<()>> = (1..num_threads).map_while(start).collect();
        let next = (0..=members.len()).map(|_| Counter::default()).collect();
        Team { door, members, next, _stays: PhantomData }
    }

    pub fn num_threads(&self) -> usize {
        self.members.len() + 1
    }

    /// Calls `work` with every chunk of `values` and its number. Each thread takes its share from the front, in order,
    /// and then helps the others.
    ///
    /// # Panics
    /// With what `work` panicked with, after all threads have stopped.
    pub fn for_each_chunk<T: Send>(
        &mut self,
        values: &mut [T],
        chunk_len: usize,
        work: impl Fn(usize, &mut [T]) + Sync,
    ) {
        let (len, num_threads) = (values.len(), self.num_threads());
        let num_chunks = len.div_ceil(chunk_len.max(1));
        let end = |member: usize| num_chunks * (member + 1) / num_threads;
        for (member, next) in self.next.iter().enumerate() {
            next.0.store(num_chunks * member / num_threads, Ordering::Relaxed);
        }
        let start = Start(values.as_mut_ptr());
        let next = &self.next;
        let share = |me: usize| {
            for member in (me..num_threads).chain(0..me) {
                loop {
                    let chunk = next[member].0.fetch_add(1, Ordering::Relaxed);
                    if chunk >= end(member) {
                        break;
                    }
                    let from = chunk * chunk_len;
                    let chunk_len = chunk_len.min(len - from);
                    // SAFETY: the range lies within `values`, which is borrowed until all threads are done; a counter
                    // gives every number once, and shares do not overlap, so nobody else has this chunk.
                    let values = unsafe { std::slice::from_raw_parts_mut(start.at(from), chunk_len) };
                    work(chunk, values);
                }
            }
        };
        section(&self.door, &self.members, &share);
    }
}

/// Where a slice starts; sent to threads that touch separate parts of it.
struct Start<T>(*mut T);

// SAFETY: the pointer is only used for parts that no two threads share, of values that may be sent.
unsafe impl<T: Send> Sync for Start<T> {}

impl<T> Start<T> {
    fn at(&self, offset: usize) -> *mut T {
        self.0.wrapping_add(offset)
    }
}

impl Drop for Team {
    fn drop(&mut self) {
        self.door.closed.store(true, Ordering::Relaxed);
        open(&self.door, &self.members);
        for member in self.members.drain(..) {
            let _ = member.join(); // its panics were passed on when they happened
        }
    }
}

/// Lets every member in once; asleep or not.
fn open(door: &Door, members: &[JoinHandle<()>]) {
    door.section.fetch_add(1, Ordering::Release);
    members.iter().for_each(|member| member.thread().unpark());
}

/// Runs one section on all threads and waits for its end.
fn section(door: &Door, members: &[JoinHandle<()>], work: Work<'_>) {
    door.inside.store(members.len(), Ordering::Relaxed);
    door.work.store((&raw const work).cast_mut().cast(), Ordering::Relaxed);
    open(door, members);
    let own = catch_unwind(AssertUnwindSafe(|| work(0)));
    wait(|| door.inside.load(Ordering::Acquire) == 0);
    let others = door.panic.lock().unwrap_or_else(PoisonError::into_inner).take();
    if let Some(payload) = own.err().or(others) {
        resume_unwind(payload);
    }
}

/// A member's life.
fn serve(door: &Door, number: usize, caller: &Thread) {
    let mut last = 0;
    loop {
        wait(|| door.section.load(Ordering::Acquire) != last);
        last += 1;
        if door.closed.load(Ordering::Relaxed) {
            return;
        }
        let work = door.work.load(Ordering::Relaxed).cast::<Work<'_>>();
        // SAFETY: `section` put the work there before it opened the door and keeps it alive until `inside` is 0, which
        // this member makes it only below.
        let work = unsafe { *work };
        if let Err(payload) = catch_unwind(AssertUnwindSafe(|| work(number))) {
            door.panic.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(payload);
        }
        if door.inside.fetch_sub(1, Ordering::AcqRel) == 1 {
            caller.unpark();
        }
    }
}

/// Looks for a moment, then sleeps between looks. Whoever makes `done` true unparks the thread afterwards.
fn wait(done: impl Fn() -> bool) {
    for _ in 0..NUM_LOOKS {
        if done() {
            return;
        }
        std::hint::spin_loop();
    }
    while !done() {
        thread::park();
    }
}
