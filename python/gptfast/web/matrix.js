// Weights: matrices of small whole numbers in blocks of 32, as GGUF's Q8_0 and Q4_0 store them, or of
// float32.
//
// Both kinds offer the two things that a language model does with a matrix (rows, columns):
// look up a row, as an embedding does, and multiply it by a vector, as a linear layer does.

const BLOCK = 32; // values that share a scale
// A block is a float16 scale d, then the values q: in Q8_0, an int8 for each, and a weight is d * q. In
// Q4_0, four bits for each, and a weight is d * (q - 8); byte i has value i in its low half and value
// i + 16 in its high half.
const BLOCK_BYTES = { q8_0: 2 + 32, q4_0: 2 + 16 };

export class QuantizedMatrix {
  constructor(bytes, type, rows, columns) {
    this.rows = rows;
    this.columns = columns;
    this.scales = new Float32Array((rows * columns) / BLOCK);
    this.values = new Int8Array(rows * columns);
    const view = new DataView(bytes.buffer);
    const signed = new Int8Array(bytes.buffer);
    for (let block = 0; block < this.scales.length; block++) {
      const start = block * BLOCK_BYTES[type];
      this.scales[block] = float16(view.getUint16(start, true));
      if (type === "q8_0") {
        this.values.set(signed.subarray(start + 2, start + 2 + BLOCK), block * BLOCK);
      } else {
        for (let i = 0; i < BLOCK / 2; i++) {
          const both = bytes[start + 2 + i];
          this.values[block * BLOCK + i] = (both & 15) - 8;
          this.values[block * BLOCK + i + BLOCK / 2] = (both >> 4) - 8;
        }
      }
    }
  }

  // Return a row as float32, (columns).
  row(index) {
    const start = index * this.columns;
    return Float32Array.from(
      { length: this.columns },
      (_, column) => this.values[start + column] * this.scales[(start + column - (column % BLOCK)) / BLOCK],
    );
  }

  // Write the products of rows `first`, `first + 1`, ... with x (columns) into `out`.
  multiply(x, out, first = 0) {
    const { values, scales, columns } = this;
    let at = first * columns;
    let block = at / BLOCK;
    for (let row = 0; row < out.length; row++) {
      let sum = 0;
      for (let column = 0; column < columns; column += BLOCK, block++) {
        // Four sums, so that the processor need not wait for one addition to begin the next.
        let a = 0, b = 0, c = 0, d = 0;
        for (let i = column; i < column + BLOCK; i += 4, at += 4) {
          a += values[at] * x[i];
          b += values[at + 1] * x[i + 1];
          c += values[at + 2] * x[i + 2];
          d += values[at + 3] * x[i + 3];
        }
        sum += (a + b + c + d) * scales[block];
      }
      out[row] = sum;
    }
  }
}

export class FloatMatrix {
  constructor(values, rows, columns) {
    this.rows = rows;
    this.columns = columns;
    this.values = values;
  }

  row(index) {
    return this.values.slice(index * this.columns, (index + 1) * this.columns);
  }

  multiply(x, out, first = 0) {
    const { values, columns } = this;
    let at = first * columns;
    for (let row = 0; row < out.length; row++) {
      let sum = 0;
      for (let column = 0; column < columns; column++, at++) sum += values[at] * x[column];
      out[row] = sum;
    }
  }
}

// Return the weights that are written as base64: a Float32Array for a vector, else a matrix. The
// experts of a layer, (E, rows, columns), lie one below the other in a matrix (E * rows, columns).
export function decodeWeights(base64, type, shape) {
  const bytes = bytesOf(base64);
  const columns = shape[shape.length - 1];
  const rows = shape.slice(0, -1).reduce((product, n) => product * n, 1);
  if (type in BLOCK_BYTES) return new QuantizedMatrix(bytes, type, rows, columns);
  const values = new Float32Array(bytes.buffer);
  return shape.length === 1 ? values : new FloatMatrix(values, rows, columns);
}

function bytesOf(base64) {
  const binary = atob(base64); // a string whose characters are the bytes
  const bytes = new Uint8Array(binary.length);
  for (let i = 0; i < binary.length; i++) bytes[i] = binary.charCodeAt(i);
  return bytes;
}

// Return the number that 16 bits stand for: 1 for the sign, 5 for the exponent, 10 for the fraction.
function float16(bits) {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >> 10) & 0x1f;
  const fraction = (bits & 0x3ff) / 1024;
  if (exponent === 0) return sign * fraction * 2 ** -14; // too small for a leading 1
  return sign * (1 + fraction) * 2 ** (exponent - 15);
}
