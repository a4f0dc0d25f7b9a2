//! The frames of a case as generator and sink need them: what all have in common, and what tells one from another.

use anyhow::{Result, ensure};
use gre_bench_ebpf::{Expectation, FIELDS, Flow, HEAD_LENGTH, Head, Template};

/// The bytes from `from` on, as many as `length`.
pub(crate) type Field = (usize, usize);

/// Frames of one length that differ in their heads only.
#[derive(Clone, Debug, Default)]
pub(crate) struct Frames {
    example: Vec<u8>,
    heads: Vec<Head>,
    free: Vec<Field>,
    number: u32,
}

impl Frames {
    /// Adds a frame.
    pub(crate) fn push(&mut self, frame: &[u8]) {
        if self.heads.is_empty() {
            frame.clone_into(&mut self.example);
        }
        assert_eq!(
            tail(frame),
            tail(&self.example),
            "frames of a case have one length and one payload"
        );
        self.heads.push(head(frame));
    }

    /// Leaves these bytes unjudged.
    pub(crate) fn free(&mut self, fields: &[Field]) {
        self.free.extend_from_slice(fields);
    }

    /// Lets each frame that is sent carry a greater number here than the last one; four bytes.
    pub(crate) const fn number_at(&mut self, offset: usize) {
        self.number = offset as u32;
    }

    /// One of the frames.
    pub(crate) fn example(&self) -> &[u8] {
        &self.example
    }

    /// What the sink shall see: one of the frames, with any content in the bytes that are free. Bits in which the frames
    /// differ are not judged.
    pub(crate) fn expectation(&self) -> Expectation {
        let mut fixed = [0xff; HEAD_LENGTH];
        for (start, length) in &self.free {
            fixed[*start..start + length].fill(0);
        }
        let (differing, first) = (self.differing(), head(&self.example));
        let mask = and(head(&fixed), differing.map(|word| !word));
        Expectation {
            length: self.example.len() as u64,
            mask,
            value: and(first, mask),
        }
    }

    /// Splits the frames into what they have in common and what not.
    pub(crate) fn compress(&self) -> Result<(Template, Vec<Flow>)> {
        ensure!(
            self.heads.len().is_power_of_two(),
            "{} frames are no power of two",
            self.heads.len()
        );
        let differing = bytes(self.differing());
        let differs = |place: &usize| differing[*place..place + 2] != [0; 2];
        let mut places: Vec<usize> = (0..HEAD_LENGTH).step_by(2).filter(differs).collect();
        ensure!(
            places.len() <= FIELDS,
            "the frames of a case differ in more than {FIELDS} fields: at {places:?}"
        );
        places.resize(FIELDS, places.last().copied().unwrap_or_default());
        let template = Template {
            head: head(&self.example),
            places: std::array::from_fn(|field| places[field] as u32),
            mask: u32::try_from(self.heads.len() - 1)?,
            number: self.number,
            long: (self.example.len() >= HEAD_LENGTH).into(),
            length: u32::try_from(self.example.len())?,
        };
        let flow = |head: &Head| {
            let bytes = bytes(*head);
            let field = |field| [bytes[places[field]], bytes[places[field] + 1]];
            std::array::from_fn(|number| u16::from_ne_bytes(field(number)))
        };
        Ok((template, self.heads.iter().map(flow).collect()))
    }

    /// The bits in which not all heads are the same.
    fn differing(&self) -> Head {
        let first = head(&self.example);
        let mut differing = Head::default();
        for head in &self.heads {
            for (bits, (word, first)) in differing.iter_mut().zip(head.iter().zip(first)) {
                *bits |= word ^ first;
            }
        }
        differing
    }
}

/// Whether a frame is as the sink shall see it.
pub(crate) fn is_expected(frame: &[u8], expectation: &Expectation) -> bool {
    frame.len() as u64 == expectation.length
        && and(head(frame), expectation.mask) == expectation.value
}

/// The first bytes of a frame; zeros behind its end.
fn head(frame: &[u8]) -> Head {
    let mut bytes = [0; HEAD_LENGTH];
    let length = frame.len().min(HEAD_LENGTH);
    bytes[..length].copy_from_slice(&frame[..length]);
    let mut head = Head::default();
    for (word, bytes) in head.iter_mut().zip(bytes.as_chunks().0) {
        *word = u64::from_ne_bytes(*bytes);
    }
    head
}

/// What is behind the head.
fn tail(frame: &[u8]) -> Option<&[u8]> {
    frame.get(HEAD_LENGTH..)
}

/// The inverse of [`head`].
fn bytes(head: Head) -> [u8; HEAD_LENGTH] {
    let mut bytes = [0; HEAD_LENGTH];
    for (bytes, word) in bytes.as_chunks_mut().0.iter_mut().zip(head) {
        *bytes = word.to_ne_bytes();
    }
    bytes
}

fn and(left: Head, right: Head) -> Head {
    std::array::from_fn(|word| left[word] & right[word])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_frame_is_the_template_with_the_fields_of_its_flow() {
        let frame = |number: u16| {
            let mut frame = vec![7; 100];
            frame[14..16].copy_from_slice(&number.to_be_bytes());
            frame[90] = 3 - number as u8;
            frame
        };
        let mut frames = Frames::default();
        for number in 0..4 {
            frames.push(&frame(number));
        }
        let (template, flows) = frames.compress().unwrap();
        assert_eq!((template.mask, template.long), (3, 1));
        for (flow, number) in flows.into_iter().zip(0..) {
            let mut bytes = bytes(template.head);
            for (place, field) in template.places.into_iter().zip(flow) {
                bytes[place as usize..][..2].copy_from_slice(&field.to_ne_bytes());
            }
            assert_eq!(bytes, frame(number)[..HEAD_LENGTH]);
        }
    }

    #[test]
    fn what_differs_or_is_free_is_not_judged() {
        let mut frames = Frames::default();
        frames.push(&[1; 64]);
        let mut other = [1; 64];
        other[20] = 3;
        frames.push(&other);
        frames.free(&[(30, 2)]);
        let expectation = frames.expectation();
        let mask = bytes(expectation.mask);
        assert_eq!(mask[..20], [0xff; 20]);
        assert_eq!(mask[20..22], [0xfd, 0xff]);
        assert_eq!(mask[29..33], [0xff, 0, 0, 0xff]);
        assert_eq!(bytes(expectation.value)[20], 1);
        assert!(is_expected(&other, &expectation));
        other[40] = 0;
        assert!(!is_expected(&other, &expectation));
        assert_eq!(expectation.length, 64);
    }
}
