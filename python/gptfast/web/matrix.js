// Weights: stored as small whole numbers in blocks of 32, computed with as float32.

// A matrix (rows, columns) does the two things that a language model needs: look up a row, as an
// embedding does, and multiply by a vector, as a linear layer does.
export class Matrix {
  constructor(values, rows, columns) {
    this.values = values; // Float32Array, one row after the other
    this.rows = rows;
    this.columns = columns;
  }

  row(index) {
    return this.values.slice(index * this.columns, (index + 1) * this.columns);
  }

  // Write the products of rows `first`, `first + 1`, ... with x (columns) into `out`. Nearly all of
  // the time of a model is spent here.
  multiply(x, out, first = 0) {
    const { values, columns } = this;
    for (let row = 0; row < out.length; row++) {
      let at = (first + row) * columns;
      // Four sums, so that the processor need not wait for one addition to begin the next.
      let a = 0, b = 0, c = 0, d = 0;
      let column = 0;
      for (; column + 3 < columns; column += 4, at += 4) {
        a += values[at] * x[column];
        b += values[at + 1] * x[column + 1];
        c += values[at + 2] * x[column + 2];
        d += values[at + 3] * x[column + 3];
      }
      for (; column < columns; column++, at++) a += values[at] * x[column];
      out[row] = a + b + c + d;
    }
  }
}

// Return the weights that are written as base64: a Float32Array for a vector, else a matrix. The
// experts of a layer, (E, rows, columns), lie one below the other in a matrix (E * rows, columns).
export function decodeWeights(base64, type, shape) {
  const bytes = bytesOf(base64);
  const values = type === "f32" ? new Float32Array(bytes.buffer) : dequantize(bytes, type);
  if (shape.length === 1) return values;
  const columns = shape[shape.length - 1];
  return new Matrix(values, values.length / columns, columns);
}

function bytesOf(base64) {
  const binary = atob(base64); // a string whose characters are the bytes
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// A block of GGUF's is a float16 scale d, then 32 values q. In Q8_0, each is an int8 and stands for
// d * q. In Q4_0, each has four bits and stands for d * (q - 8); byte i has value i in its low half
// and value i + 16 in its high half.
const BLOCK = 32;
const BLOCK_BYTES = { q8_0: 2 + BLOCK, q4_0: 2 + BLOCK / 2 };

function dequantize(bytes, type) {
  const n_blocks = bytes.length / BLOCK_BYTES[type];
  const values = new Float32Array(n_blocks * BLOCK);
  const view = new DataView(bytes.buffer);
  for (let block = 0; block < n_blocks; block++) {
    const start = block * BLOCK_BYTES[type];
    const scale = float16(view.getUint16(start, true));
    for (let i = 0; i < BLOCK; i++) {
      let q;
      if (type === "q8_0") q = view.getInt8(start + 2 + i);
      else if (i < BLOCK / 2) q = (bytes[start + 2 + i] & 15) - 8;
      else q = (bytes[start + 2 + i - BLOCK / 2] >> 4) - 8;
      values[block * BLOCK + i] = scale * q;
    }
  }
  return values;
}

// Return the number that 16 bits stand for: 1 for the sign, 5 for the exponent, 10 for the fraction.
function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1024;
  if (exponent === 0) return sign * fraction * 2 ** -14; // too small for a leading 1
  return sign * (1 + fraction) * 2 ** (exponent - 15);
}
