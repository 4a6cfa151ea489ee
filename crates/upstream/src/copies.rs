//! A body sent to more than one place: the one that counts sets the pace, a copy that falls too far behind is given up.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use bytes::Bytes;
use http_body::Frame;

use crate::body::BodyError;

/// A copy may be this many bytes behind.
const BEHIND: usize = 1 << 20;

#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Frame<Bytes>>,
    bytes: usize,
    end: Option<End>,
    waker: Option<Waker>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    /// All of the body was handed over.
    Whole,
    /// The original broke off, or the copy was too slow.
    Broken,
}

/// Where frames are put in.
#[derive(Debug)]
pub(crate) struct CopyIn(Rc<RefCell<Lane>>);

/// Where they come out.
#[derive(Debug)]
pub struct CopyOut(Rc<RefCell<Lane>>);

pub(crate) fn lane() -> (CopyIn, CopyOut) {
    let lane = Rc::<RefCell<Lane>>::default();
    (CopyIn(lane.clone()), CopyOut(lane))
}

impl CopyIn {
    pub(crate) fn push(&self, frame: &Frame<Bytes>) {
        let mut lane = self.0.borrow_mut();
        if lane.end.is_some() || Rc::strong_count(&self.0) == 1 {
            return;
        }
        let (copy, size) = match (frame.data_ref(), frame.trailers_ref()) {
            (Some(data), _) => (Frame::data(data.clone()), data.len()),
            (None, Some(trailers)) => (Frame::trailers(trailers.clone()), 0),
            (None, None) => return,
        };
        if lane.bytes + size > BEHIND && lane.bytes > 0 {
            lane.frames.clear();
            lane.end = Some(End::Broken);
        } else {
            lane.bytes += size;
            lane.frames.push_back(copy);
        }
        wake(&mut lane);
    }

    /// The original has ended in order.
    pub(crate) fn finish(&self) {
        self.end(End::Whole);
    }

    fn end(&self, how: End) {
        let mut lane = self.0.borrow_mut();
        lane.end.get_or_insert(how);
        wake(&mut lane);
    }
}

impl Drop for CopyIn {
    fn drop(&mut self) {
        self.end(End::Broken);
    }
}

fn wake(lane: &mut Lane) {
    if let Some(waker) = lane.waker.take() {
        waker.wake();
    }
}

impl CopyOut {
    pub(crate) fn poll_frame(&self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut lane = self.0.borrow_mut();
        if let Some(frame) = lane.frames.pop_front() {
            lane.bytes -= frame.data_ref().map_or(0, Bytes::len).min(lane.bytes);
            return Poll::Ready(Some(Ok(frame)));
        }
        match lane.end {
            Some(End::Whole) => Poll::Ready(None),
            Some(End::Broken) => Poll::Ready(Some(Err(BodyError::Broken))),
            None => {
                lane.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(out: &CopyOut) -> Poll<Option<Result<usize, ()>>> {
        let polled = out.poll_frame(&mut Context::from_waker(Waker::noop()));
        polled.map(|f| f.map(|f| f.map(|f| f.data_ref().map_or(0, Bytes::len)).map_err(|_| ())))
    }

    #[test]
    fn a_copy_gets_what_the_original_gets() {
        let (put, out) = lane();
        assert_eq!(next(&out), Poll::Pending);
        put.push(&Frame::data(Bytes::from_static(b"abc")));
        put.push(&Frame::trailers(http::HeaderMap::new()));
        put.finish();
        drop(put);
        assert_eq!(next(&out), Poll::Ready(Some(Ok(3))));
        assert_eq!(next(&out), Poll::Ready(Some(Ok(0))));
        assert_eq!(next(&out), Poll::Ready(None));
    }

    #[test]
    fn a_copy_that_falls_behind_is_broken_off_and_holds_nothing() {
        let (put, out) = lane();
        let piece = Frame::data(Bytes::from(vec![0; BEHIND / 4]));
        (0..4).for_each(|_| put.push(&piece));
        assert_eq!(next(&out), Poll::Ready(Some(Ok(BEHIND / 4))));
        put.push(&piece);
        put.push(&piece);
        put.finish();
        assert_eq!(next(&out), Poll::Ready(Some(Err(()))));
        assert!(out.0.borrow().frames.is_empty());
    }

    #[test]
    fn a_broken_original_breaks_its_copies() {
        let (put, out) = lane();
        put.push(&Frame::data(Bytes::from_static(b"abc")));
        drop(put);
        assert_eq!(next(&out), Poll::Ready(Some(Ok(3))));
        assert_eq!(next(&out), Poll::Ready(Some(Err(()))));
    }
}
