//! Frames on their way into a stream that may take any part of them.

use std::{collections::VecDeque, io::IoSlice};

use crate::frame::{Frame, Generation};

/// The most frames that one write takes along.
pub(crate) const PER_WRITE: usize = 64;

pub(super) struct Batch {
    generation: Generation,
    frames: VecDeque<Frame>,
    /// How much of the first is written.
    written: usize,
}

impl Batch {
    pub(super) fn new() -> Self {
        Self {
            generation: Generation::Eio4,
            frames: VecDeque::new(),
            written: 0,
        }
    }

    /// What follows is for a client of this generation.
    pub(super) fn speak(&mut self, generation: Generation) {
        self.generation = generation;
    }

    pub(super) fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Where the next ones go.
    pub(super) fn frames(&mut self) -> &mut VecDeque<Frame> {
        &mut self.frames
    }

    /// How many frames have to be finished before anything else may be written: one or none.
    pub(super) fn begun(&self) -> usize {
        usize::from(self.written > 0)
    }

    /// What is left of the first `count` frames, as far as one write takes it.
    pub(super) fn slices(&self, count: usize) -> ([IoSlice<'_>; PER_WRITE], usize) {
        let mut slices = [IoSlice::new(&[]); PER_WRITE];
        let count = count.min(self.frames.len()).min(PER_WRITE);
        for (slice, frame) in slices.iter_mut().zip(self.frames.iter().take(count)) {
            *slice = IoSlice::new(frame.websocket(self.generation));
        }
        if let Some(first) = slices.first_mut() {
            first.advance(self.written);
        }
        (slices, count)
    }

    /// That many bytes were written.
    pub(super) fn advance(&mut self, bytes: usize) {
        self.written += bytes;
        while let Some(first) = self.frames.front() {
            let length = first.websocket(self.generation).len();
            if self.written < length {
                return;
            }
            self.written -= length;
            self.frames.pop_front();
        }
    }

    /// Nothing more of it is written.
    pub(super) fn clear(&mut self) {
        self.frames = VecDeque::new();
        self.written = 0;
    }
}
