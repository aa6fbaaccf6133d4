//! Reads a header front to back. Nothing is allocated before its size is known to fit into the rest of the file.

use crate::checkpoint::CheckpointError;
use crate::checkpoint::file::SourceFile;
use crate::checkpoint::gguf::value::{Array, Value};
use crate::checkpoint::limits;

const WINDOW: u64 = 256 << 10;

pub(super) struct Cursor<'a> {
    file: &'a SourceFile,
    position: u64,
    window: Vec<u8>,
    window_start: u64,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(file: &'a SourceFile) -> Self {
        Self { file, position: 0, window: Vec::new(), window_start: 0 }
    }

    pub(super) fn position(&self) -> u64 {
        self.position
    }

    pub(super) fn remaining(&self) -> u64 {
        self.file.len() - self.position
    }

    pub(super) fn error(&self, field: &str, reason: impl Into<String>) -> CheckpointError {
        self.file.header(field, self.position, reason)
    }

    /// Fails unless `count` items of at least `size` bytes each can still follow.
    pub(super) fn check_room(&self, field: &str, count: u64, size: u64) -> Result<(), CheckpointError> {
        if u128::from(count) * u128::from(size) > u128::from(self.remaining()) {
            let reason = format!("{count} items do not fit into the {} bytes that are left", self.remaining());
            return Err(self.error(field, reason));
        }
        Ok(())
    }

    /// The next `len` bytes.
    fn take(&mut self, field: &str, len: u64) -> Result<&[u8], CheckpointError> {
        if len > self.remaining() {
            let reason = format!("{len} bytes do not fit into the {} bytes that are left", self.remaining());
            return Err(self.error(field, reason));
        }
        let in_window =
            self.position >= self.window_start && self.position + len <= self.window_start + self.window.len() as u64;
        if !in_window {
            let size = len.max(WINDOW).min(self.remaining());
            self.window = self.file.read(self.position, size)?;
            self.window_start = self.position;
        }
        let begin = (self.position - self.window_start) as usize;
        self.position += len;
        Ok(&self.window[begin..begin + len as usize])
    }

    fn fixed<const N: usize>(&mut self, field: &str) -> Result<[u8; N], CheckpointError> {
        let bytes = self.take(field, N as u64)?;
        Ok(bytes.try_into().expect("take gives as many bytes as asked for"))
    }

    pub(super) fn u32(&mut self, field: &str) -> Result<u32, CheckpointError> {
        Ok(u32::from_le_bytes(self.fixed(field)?))
    }

    pub(super) fn u64(&mut self, field: &str) -> Result<u64, CheckpointError> {
        Ok(u64::from_le_bytes(self.fixed(field)?))
    }

    pub(super) fn string(&mut self, field: &str) -> Result<String, CheckpointError> {
        let len = self.u64(field)?;
        limits::GGUF_STRING.check(len).map_err(|reason| self.error(field, reason))?;
        let text = str::from_utf8(self.take(field, len)?).map(str::to_owned);
        text.map_err(|error| self.error(field, format!("not UTF-8: {error}")))
    }

    fn bool(&mut self, field: &str) -> Result<bool, CheckpointError> {
        match self.fixed::<1>(field)? {
            [0] => Ok(false),
            [1] => Ok(true),
            [other] => Err(self.error(field, format!("{other} is not a truth value"))),
        }
    }

    pub(super) fn value(&mut self, field: &str) -> Result<Value, CheckpointError> {
        Ok(match self.u32(field)? {
            0 => Value::U8(u8::from_le_bytes(self.fixed(field)?)),
            1 => Value::I8(i8::from_le_bytes(self.fixed(field)?)),
            2 => Value::U16(u16::from_le_bytes(self.fixed(field)?)),
            3 => Value::I16(i16::from_le_bytes(self.fixed(field)?)),
            4 => Value::U32(self.u32(field)?),
            5 => Value::I32(i32::from_le_bytes(self.fixed(field)?)),
            6 => Value::F32(f32::from_le_bytes(self.fixed(field)?)),
            7 => Value::Bool(self.bool(field)?),
            8 => Value::String(self.string(field)?),
            9 => Value::Array(self.array(field, 1)?),
            10 => Value::U64(self.u64(field)?),
            11 => Value::I64(i64::from_le_bytes(self.fixed(field)?)),
            12 => Value::F64(f64::from_le_bytes(self.fixed(field)?)),
            other => return Err(self.error(field, format!("value type {other} is not known"))),
        })
    }

    fn array(&mut self, field: &str, depth: u64) -> Result<Array, CheckpointError> {
        limits::GGUF_DEPTH.check(depth).map_err(|reason| self.error(field, reason))?;
        let code = self.u32(field)?;
        let count = self.u64(field)?;
        limits::GGUF_ARRAY.check(count).map_err(|reason| self.error(field, reason))?;
        Ok(match code {
            0 => Array::U8(self.take_array(field, count, 1)?.to_vec()),
            1 => Array::I8(self.items(field, count, i8::from_le_bytes)?),
            2 => Array::U16(self.items(field, count, u16::from_le_bytes)?),
            3 => Array::I16(self.items(field, count, i16::from_le_bytes)?),
            4 => Array::U32(self.items(field, count, u32::from_le_bytes)?),
            5 => Array::I32(self.items(field, count, i32::from_le_bytes)?),
            6 => Array::F32(self.items(field, count, f32::from_le_bytes)?),
            7 => Array::Bool(self.each(field, count, 1, |cursor| cursor.bool(field))?),
            8 => Array::String(self.each(field, count, 8, |cursor| cursor.string(field))?),
            9 => Array::Nested(self.each(field, count, 12, |cursor| cursor.array(field, depth + 1))?),
            10 => Array::U64(self.items(field, count, u64::from_le_bytes)?),
            11 => Array::I64(self.items(field, count, i64::from_le_bytes)?),
            12 => Array::F64(self.items(field, count, f64::from_le_bytes)?),
            other => return Err(self.error(field, format!("array type {other} is not known"))),
        })
    }

    fn take_array(&mut self, field: &str, count: u64, size: u64) -> Result<&[u8], CheckpointError> {
        self.check_room(field, count, size)?;
        self.take(field, count * size)
    }

    fn items<const N: usize, T>(
        &mut self,
        field: &str,
        count: u64,
        decode: fn([u8; N]) -> T,
    ) -> Result<Vec<T>, CheckpointError> {
        let bytes = self.take_array(field, count, N as u64)?;
        Ok(bytes.as_chunks::<N>().0.iter().map(|&chunk| decode(chunk)).collect())
    }

    fn each<T>(
        &mut self,
        field: &str,
        count: u64,
        smallest: u64,
        mut read: impl FnMut(&mut Self) -> Result<T, CheckpointError>,
    ) -> Result<Vec<T>, CheckpointError> {
        self.check_room(field, count, smallest)?;
        let mut items = Vec::with_capacity(count as usize);
        for _ in 0..count {
            items.push(read(self)?);
        }
        Ok(items)
    }
}
