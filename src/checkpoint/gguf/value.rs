//! Metadata values. Arrays keep the type of their elements, so a large one costs no more than its bytes.

/// One metadata value.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Value {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    Array(Array),
    U64(u64),
    I64(i64),
    F64(f64),
}

/// An array of one type.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Array {
    U8(Vec<u8>),
    I8(Vec<i8>),
    U16(Vec<u16>),
    I16(Vec<i16>),
    U32(Vec<u32>),
    I32(Vec<i32>),
    F32(Vec<f32>),
    Bool(Vec<bool>),
    String(Vec<String>),
    Nested(Vec<Self>),
    U64(Vec<u64>),
    I64(Vec<i64>),
    F64(Vec<f64>),
}

impl Value {
    /// The number of this type in a file.
    pub(crate) fn type_code(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }
}

/// Keys and values in the order of the file, with the byte at which each value begins.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Metadata {
    pub(crate) entries: Vec<(String, u64, Value)>,
}

impl Metadata {
    /// The value of `key`.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.entries.iter().find(|(found, ..)| found == key).map(|(.., value)| value)
    }

    /// The byte at which the value of `key` begins; 0 when there is none.
    pub(crate) fn offset(&self, key: &str) -> u64 {
        self.entries.iter().find(|(found, ..)| found == key).map_or(0, |(_, offset, _)| *offset)
    }

    /// The unsigned integer behind `key`; an error when the value is of another kind or negative.
    pub(crate) fn unsigned(&self, key: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = match *value {
            Value::U8(number) => Some(u64::from(number)),
            Value::U16(number) => Some(u64::from(number)),
            Value::U32(number) => Some(u64::from(number)),
            Value::U64(number) => Some(number),
            Value::I8(number) => u64::try_from(number).ok(),
            Value::I16(number) => u64::try_from(number).ok(),
            Value::I32(number) => u64::try_from(number).ok(),
            Value::I64(number) => u64::try_from(number).ok(),
            _ => None,
        };
        number.map(Some).ok_or_else(|| "not an unsigned integer".to_owned())
    }

    /// The finite number behind `key`.
    pub(crate) fn float(&self, key: &str) -> Result<Option<f64>, String> {
        let number = match self.get(key) {
            None => return Ok(None),
            // Through decimal text, so that 1e-5 written in single precision is 1e-5 again.
            Some(Value::F32(number)) => number.to_string().parse::<f64>().ok(),
            Some(Value::F64(number)) => Some(*number),
            Some(_) => self.unsigned(key)?.map(|number| number as f64),
        };
        number.filter(|number| number.is_finite()).map(Some).ok_or_else(|| "not a finite number".to_owned())
    }

    /// The text behind `key`.
    pub(crate) fn text(&self, key: &str) -> Result<Option<&str>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err("not a text".to_owned()),
        }
    }

    /// The switch behind `key`.
    pub(crate) fn switch(&self, key: &str) -> Result<Option<bool>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Bool(switch)) => Ok(Some(*switch)),
            Some(_) => Err("not a truth value".to_owned()),
        }
    }

    /// The texts behind `key`.
    pub(crate) fn texts(&self, key: &str) -> Result<Option<&[String]>, String> {
        match self.get(key) {
            None => Ok(None),
            Some(Value::Array(Array::String(texts))) => Ok(Some(texts)),
            Some(_) => Err("not an array of texts".to_owned()),
        }
    }
}
