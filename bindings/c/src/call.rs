//! The border between C and Rust: arguments in, a status and a message out, no panic across.

use std::any::Any;
use std::cell::RefCell;
use std::ffi::{CString, c_char};
use std::panic::{AssertUnwindSafe, catch_unwind};

use crate::status::{Failure, fc_status};

thread_local! {
    /// The message of this thread's last call that failed.
    static LAST_ERROR: RefCell<CString> = RefCell::default();
}

/// The message of this thread's last call that failed, or "" if none has. It is valid until the thread's next call of
/// this library: copy it if you keep it, and do not free it.
#[unsafe(no_mangle)]
pub extern "C" fn fc_last_error() -> *const c_char {
    LAST_ERROR.try_with(|last| last.borrow().as_ptr()).unwrap_or(c"".as_ptr())
}

/// Does `work` and tells C what became of it.
pub(crate) fn call(work: impl FnOnce() -> Result<(), Failure>) -> fc_status {
    // Unwinding may leave nothing half-done that anybody sees: what is shared is behind locks, and changed in one step.
    let result = catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|panic| Err(Failure::Panic { message: message(&*panic) }));
    match result {
        Ok(()) => fc_status::FC_OK,
        Err(failure) => {
            remember(&failure.to_string());
            failure.status()
        }
    }
}

fn message(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<&str>().copied();
    text.or(panic.downcast_ref::<String>().map(String::as_str)).unwrap_or("no message").to_owned()
}

fn remember(text: &str) {
    let text = CString::new(text.replace('\0', "\\0")).unwrap_or_default();
    // A thread that is ending has no place for it any more.
    let _ = LAST_ERROR.try_with(|last| last.replace(text));
}

/// Refuses a null pointer.
pub(crate) fn required<T>(pointer: *const T, argument: &'static str) -> Result<(), Failure> {
    if pointer.is_null() { Err(Failure::NullArgument { argument }) } else { Ok(()) }
}

/// Refuses a struct that another version of the header describes.
pub(crate) fn require_size<T>(found: usize, argument: &'static str) -> Result<(), Failure> {
    let expected = size_of::<T>();
    if found == expected { Ok(()) } else { Err(Failure::StructSize { argument, found, expected }) }
}
