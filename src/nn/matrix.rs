//! One product over one packed matrix.

#[cfg(feature = "cuda")]
use std::sync::Arc;
use std::sync::OnceLock;

use candle_core::{Storage, Tensor};

use crate::compress::{ActivationGrid, IntMatrix, PackedWeights, SparseMatrix, ZeroPoints, block_type};
use crate::kernels::{Blocks, Floats, Fp8Scales, Ints, Isa, SparseHalf, SparseInts, Zeros};
use crate::model::Arithmetic;
#[cfg(feature = "cuda")]
use crate::model::StoredFormat;
use crate::nn::NnError;
use crate::nn::inputs::Inputs;
#[cfg(feature = "cuda")]
use crate::nn::source::{MatrixSource, StoredWeights, Weights};
use crate::recipe::{Execution, Fp8Scale, IntFormat};

/// y = x Wᵀ over weights (`out_features`, `in_features`).
#[derive(Debug)]
pub(super) struct Matrix {
    form: OnceLock<Form>,
    shape: [usize; 2],
    /// What it was made from, for products elsewhere.
    #[cfg(feature = "cuda")]
    source: MatrixSource,
}

#[derive(Debug)]
enum Form {
    /// Weights of any width with f32 activations.
    Floats(Floats),
    /// GGML blocks; activations are rounded to blocks too.
    Blocks(Blocks),
    /// Integer weights with 8-bit activations.
    Ints(Ints),
    /// The weights that are not zero, in half precision.
    SparseHalf(SparseHalf),
    /// The weights that are not zero, as codes of 8 bits.
    SparseInts(SparseInts),
}

impl Form {
    fn new(packed: PackedWeights, shape: [usize; 2], execution: Execution, activations: ActivationGrid) -> Self {
        let [rows, row_len] = shape;
        let widened = |weights: &[f32]| Self::Floats(Floats::f32(weights, rows, row_len));
        match packed {
            PackedWeights::F32(weights) => widened(&weights),
            other if execution != Execution::Packed => widened(&other.dequantize()),
            PackedWeights::F16(weights) => Self::Floats(Floats::f16(&weights, rows, row_len)),
            PackedWeights::Bf16(weights) => Self::Floats(Floats::bf16(&weights, rows, row_len)),
            PackedWeights::Ggml { format, bytes } => {
                Self::Blocks(Blocks::pack(block_type(format), &bytes, rows, row_len))
            }
            PackedWeights::Fp8(matrix) => {
                let scales = match matrix.scale() {
                    Fp8Scale::Tensor => Fp8Scales::Tensor(matrix.scales()[0]),
                    Fp8Scale::Row => Fp8Scales::Rows(matrix.scales()),
                    Fp8Scale::Block => Fp8Scales::Squares(matrix.scales()),
                };
                Self::Floats(Floats::fp8(matrix.codes(), scales, rows, row_len))
            }
            PackedWeights::Sparse(matrix) => sparse(&matrix, shape),
            PackedWeights::Int(matrix) if IntFormat::PACKED_BITS.contains(&matrix.format().bits) => {
                ints(&matrix, shape, activations)
            }
            other => widened(&other.dequantize()),
        }
    }

    fn row(&self, id: usize, row: &mut [f32]) {
        match self {
            Self::Floats(floats) => floats.row(id, row),
            Self::Blocks(blocks) => blocks.row(id, row),
            Self::Ints(ints) => ints.row(id, row),
            Self::SparseHalf(sparse) => sparse.row(id, row),
            Self::SparseInts(sparse) => sparse.row(id, row),
        }
    }
}

impl Matrix {
    /// Formats that have no product, and all when `execution` is not packed, are widened to f32.
    pub(super) fn new(
        packed: PackedWeights,
        shape: [usize; 2],
        execution: Execution,
        activations: ActivationGrid,
    ) -> Result<Self, NnError> {
        let [rows, row_len] = shape;
        if rows == 0 || row_len == 0 {
            return Err(NnError::Shape(format!("a matrix of {rows} × {row_len} has no weights")));
        }
        #[cfg(feature = "cuda")]
        let made = {
            let weights = Weights::Held(Arc::new(packed));
            Self { form: OnceLock::new(), shape, source: MatrixSource { weights, shape, execution, activations } }
        };
        #[cfg(not(feature = "cuda"))]
        let made = Self { form: Form::new(packed, shape, execution, activations).into(), shape };
        Ok(made)
    }

    /// Weights that are read when they are used, in the format that they are stored in.
    #[cfg(feature = "cuda")]
    pub(super) fn stored(stored: Arc<dyn StoredWeights>, shape: [usize; 2]) -> Result<Self, NnError> {
        let block_len = stored.format().block_len();
        let n_blocks = if shape[1].is_multiple_of(block_len) { shape[0] * (shape[1] / block_len) } else { 0 };
        let n_bytes = (n_blocks * stored.format().block_bytes()) as u64;
        if n_bytes == 0 || n_bytes != stored.n_bytes() {
            let [rows, row_len] = shape;
            let text = format!("{} stored bytes for a matrix of {rows} × {row_len}", stored.n_bytes());
            return Err(NnError::Shape(text));
        }
        let (execution, activations) = (Execution::Packed, ActivationGrid::Float);
        let source = MatrixSource { weights: Weights::Stored(stored), shape, execution, activations };
        Ok(Self { form: OnceLock::new(), shape, source })
    }

    /// What multiplies on the processor. A worker for cards makes it when it is first asked for: weights that only a card
    /// multiplies are not held twice, and those that are stored not at all.
    #[cfg(feature = "cuda")]
    fn form(&self) -> Result<&Form, NnError> {
        if let Some(form) = self.form.get() {
            return Ok(form);
        }
        let MatrixSource { weights, shape, execution, activations } = &self.source;
        let form = Form::new(weights.packed()?, *shape, *execution, *activations);
        Ok(self.form.get_or_init(|| form))
    }

    /// What multiplies.
    #[cfg(not(feature = "cuda"))]
    fn form(&self) -> Result<&Form, NnError> {
        self.known().ok_or_else(|| NnError::Missing("the form of a matrix".to_owned()))
    }

    /// The form of weights that are in memory; there is none of those that would have to be read.
    #[cfg(feature = "cuda")]
    fn known(&self) -> Option<&Form> {
        if self.unread().is_some() { None } else { self.form().ok() }
    }

    /// The form of weights that are in memory.
    #[cfg(not(feature = "cuda"))]
    fn known(&self) -> Option<&Form> {
        self.form.get()
    }

    /// The format of stored weights that the processor has not read.
    #[cfg(feature = "cuda")]
    fn unread(&self) -> Option<StoredFormat> {
        match &self.source.weights {
            Weights::Stored(stored) if self.form.get().is_none() => Some(stored.format()),
            Weights::Stored(_) | Weights::Held(_) => None,
        }
    }

    /// Whether the processor's form is there.
    #[cfg(all(test, feature = "cuda"))]
    pub(super) fn is_made(&self) -> bool {
        self.form.get().is_some()
    }

    pub(super) fn shape(&self) -> [usize; 2] {
        self.shape
    }

    #[cfg(feature = "cuda")]
    pub(super) fn source(&self) -> &MatrixSource {
        &self.source
    }

    /// Bytes of the weights as the processor multiplies them; before it does, as they are held or stored.
    pub(super) fn held_bytes(&self) -> u64 {
        #[cfg(feature = "cuda")]
        if self.form.get().is_none() {
            return self.source.weights.n_bytes();
        }
        (match self.known() {
            None => 0,
            Some(Form::Floats(floats)) => floats.bytes(),
            Some(Form::Blocks(blocks)) => blocks.bytes(),
            Some(Form::Ints(ints)) => ints.bytes(),
            Some(Form::SparseHalf(sparse)) => sparse.bytes(),
            Some(Form::SparseInts(sparse)) => sparse.bytes(),
        }) as u64
    }

    /// Name of the product for tables: `trimtab q8_0 (avx512-vnni)`.
    pub(super) fn label(&self) -> String {
        let name = self.known().map(|form| match form {
            Form::Floats(floats) => floats.name().to_owned(),
            Form::Blocks(blocks) => blocks.kind().name().to_owned(),
            Form::Ints(ints) => format!("int{} × int8", ints.bits()),
            Form::SparseHalf(_) => "sparse f16".to_owned(),
            Form::SparseInts(_) => "sparse int8".to_owned(),
        });
        // Its product would have the name of the format.
        #[cfg(feature = "cuda")]
        let name = name.or_else(|| self.unread().map(|format| format.name().to_owned()));
        format!("trimtab {} ({})", name.unwrap_or_default(), Isa::current().name())
    }

    /// Whether the product itself takes 8-bit activations.
    pub(super) fn is_integer(&self) -> bool {
        matches!(self.known(), Some(Form::Ints(_) | Form::SparseInts(_)))
    }

    /// Weights that one row of inputs is multiplied with; zeros that are left out are not.
    pub(super) fn n_multiplied(&self) -> u64 {
        (match self.known() {
            Some(Form::SparseHalf(sparse)) => sparse.n_nonzero(),
            Some(Form::SparseInts(sparse)) => sparse.n_nonzero(),
            Some(Form::Floats(_) | Form::Blocks(_) | Form::Ints(_)) | None => self.shape[0] * self.shape[1],
        }) as u64
    }

    /// What the product is done in with inputs that enter so.
    pub(super) fn arithmetic(&self, grid: ActivationGrid) -> Arithmetic {
        #[cfg(feature = "cuda")]
        if let Some(StoredFormat::Ggml(_)) = self.unread() {
            return Arithmetic::Int8;
        }
        match self.known() {
            Some(Form::Blocks(_) | Form::Ints(_)) => Arithmetic::Int8,
            Some(Form::SparseInts(_)) if grid != ActivationGrid::Float => Arithmetic::Int8,
            Some(Form::Floats(_) | Form::SparseHalf(_) | Form::SparseInts(_)) | None => Arithmetic::Float,
        }
    }

    /// x (seq, `in_features`) f32 → (seq, `out_features`) f32 in `y`, which the caller has given that length.
    ///
    /// # Errors
    /// When weights that are read now cannot be read.
    pub(super) fn multiply(&self, x: &mut Inputs, grid: ActivationGrid, y: &mut [f32]) -> Result<(), NnError> {
        match self.form()? {
            Form::Floats(floats) => floats.multiply(x.rounded(grid), y),
            Form::Blocks(blocks) => blocks.multiply(x.rows(), y),
            Form::Ints(ints) => ints.multiply(x.tokens(grid), y),
            Form::SparseHalf(sparse) => sparse.multiply(x.rounded(grid), y),
            Form::SparseInts(sparse) if grid == ActivationGrid::Float => sparse.multiply(x.values(), y),
            Form::SparseInts(sparse) => sparse.multiply_tokens(x.tokens(grid), y),
        }
        Ok(())
    }

    /// Rows by number: (ids, `in_features`) f32 in `rows`.
    ///
    /// # Errors
    /// As [`Self::multiply`].
    pub(super) fn rows(&self, ids: &[u32], rows: &mut [f32]) -> Result<(), NnError> {
        let form = self.form()?;
        for (id, row) in ids.iter().zip(rows.chunks_mut(self.shape[1])) {
            form.row(*id as usize, row);
        }
        Ok(())
    }

    /// The f32 values, row by row.
    ///
    /// # Errors
    /// As [`Self::multiply`].
    pub(super) fn dequantize(&self) -> Result<Vec<f32>, NnError> {
        #[cfg(feature = "cuda")]
        if self.form.get().is_none() {
            return self.source.weights.dequantize();
        }
        let form = self.form()?;
        let [rows, row_len] = self.shape;
        let mut weights = vec![0.0; rows * row_len];
        for (id, row) in weights.chunks_mut(row_len).enumerate() {
            form.row(id, row);
        }
        Ok(weights)
    }
}

fn sparse(matrix: &SparseMatrix, [rows, row_len]: [usize; 2]) -> Form {
    match (matrix.codes(), matrix.halves()) {
        (Some((codes, scales)), _) => Form::SparseInts(SparseInts::pack(&codes, scales, rows, row_len)),
        (None, halves) => Form::SparseHalf(SparseHalf::pack(&halves.unwrap_or_default(), rows, row_len)),
    }
}

fn ints(matrix: &IntMatrix, [rows, row_len]: [usize; 2], activations: ActivationGrid) -> Form {
    let (bits, group) = (matrix.format().bits, matrix.format().group.len(row_len));
    let zeros = match matrix.zeros() {
        ZeroPoints::Codes(_) if matrix.format().symmetric => Zeros::Middle,
        ZeroPoints::Codes(zeros) => Zeros::Codes(zeros),
        ZeroPoints::Floats(zeros) => Zeros::Floats(zeros),
    };
    let (codes, scales) = (matrix.codes(), matrix.scales());
    match activations {
        ActivationGrid::Float => Form::Floats(Floats::int(bits, group, codes, scales, zeros, rows, row_len)),
        ActivationGrid::Int8PerToken | ActivationGrid::Int8Static { .. } => {
            Form::Ints(Ints::pack(bits, group, codes, scales, zeros, [rows, row_len]))
        }
    }
}

/// Lends the values of an f32 tensor, without a copy where they lie contiguous in host memory.
///
/// # Errors
/// When the tensor is not f32.
pub fn with_values<T>(tensor: &Tensor, read: impl FnOnce(&[f32]) -> T) -> Result<T, NnError> {
    let tensor = tensor.contiguous()?;
    let (storage, layout) = tensor.storage_and_layout();
    if let (Storage::Cpu(storage), Some((start, end))) = (&*storage, layout.contiguous_offsets()) {
        return Ok(read(&storage.as_slice::<f32>()?[start..end]));
    }
    drop(storage);
    Ok(read(&tensor.flatten_all()?.to_vec1::<f32>()?))
}
