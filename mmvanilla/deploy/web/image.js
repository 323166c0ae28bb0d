// From a photo to the model's input, and from its outputs to the photo's pixels.

// Return the size of a photo after the resizing that the model was tested with.
export function resizedSize({ rule, scale }, width, height) {
  if (rule !== 'keep_ratio') return rule === 'exact' ? scale : [width, height];
  const factor = Math.min(
    Math.max(...scale) / Math.max(width, height), Math.min(...scale) / Math.min(width, height));
  return [Math.floor(width * factor + 0.5), Math.floor(height * factor + 0.5)];
}

// Return the two nearest indices and the weight of the second, for each pixel of a resized axis.
function neighbours(from, to, alignCorners = false) {
  return Array.from({ length: to }, (_, i) => {
    const exact = alignCorners ? (i * (from - 1)) / Math.max(to - 1, 1) : ((i + 0.5) * from) / to - 0.5;
    const place = Math.min(Math.max(exact, 0), from - 1);
    const low = Math.floor(place);
    return [low, Math.min(low + 1, from - 1), place - low];
  });
}

// Return float32 (3, H, W), BGR of 0 to 255, from the RGBA pixels of a photo.
//
// The integers are those of OpenCV, which rounds weights to 11 bits; exact ones give other scores.
export function modelInput({ data, width, height }, [toWidth, toHeight]) {
  const integer = ([low, high, weight]) => [low, high, Math.round(weight * 2048)];
  const columns = neighbours(width, toWidth).map(integer);
  const size = toWidth * toHeight;
  const result = new Float32Array(3 * size);
  let next = 0;
  for (const [top, bottom, down] of neighbours(height, toHeight).map(integer)) {
    for (const [left, right, across] of columns) {
      for (let channel = 0; channel < 3; channel++) {
        const at = (row, column) => data[4 * (row * width + column) + 2 - channel];
        const upper = (at(top, left) * (2048 - across) + at(top, right) * across) >> 4;
        const lower = (at(bottom, left) * (2048 - across) + at(bottom, right) * across) >> 4;
        const sum = ((upper * (2048 - down)) >> 16) + ((lower * down) >> 16);
        result[channel * size + next] = (sum + 2) >> 2;
      }
      next++;
    }
  }
  return result;
}

// Resize values (h, w) bilinearly.
function resizeValues(values, [width, height], [toWidth, toHeight], alignCorners) {
  const columns = neighbours(width, toWidth, alignCorners);
  const result = new Float32Array(toWidth * toHeight);
  let next = 0;
  for (const [top, bottom, down] of neighbours(height, toHeight, alignCorners)) {
    const above = top * width, below = bottom * width;
    for (const [left, right, across] of columns) {
      const upper = values[above + left] * (1 - across) + values[above + right] * across;
      const lower = values[below + left] * (1 - across) + values[below + right] * across;
      result[next++] = upper * (1 - down) + lower * down;
    }
  }
  return result;
}

// Paste a mask (h, w) of probabilities into a photo, spread over the box [x1, y1, x2, y2].
//
// Return the pixels around the box: `data` is 1 inside the object, row by row from (x, y) on.
export function pasteMask(values, [rows, columns], [x1, y1, x2, y2], photo, threshold) {
  // The pixels of an axis, each with the nearest index below and the weight of the next.
  const spread = (first, last, bins, length) => {
    const side = (last - first) / bins; // in pixels; values fade to 0 outside of the box
    const begin = Math.max(Math.floor(first - side), 0);
    const end = Math.min(Math.ceil(last + side), length);
    const places = Array.from({ length: Math.max(end - begin, 0) }, (_, i) => {
      const place = (begin + i + 0.5 - first) / side - 0.5;
      return [Math.floor(place), place - Math.floor(place)];
    });
    return [begin, places];
  };
  const at = (row, column) =>
    row < 0 || row >= rows || column < 0 || column >= columns ? 0 : values[row * columns + column];
  const [x, across] = spread(x1, x2, columns, photo.width);
  const [y, along] = spread(y1, y2, rows, photo.height);
  const data = new Uint8Array(across.length * along.length);
  let next = 0;
  for (const [row, down] of along) {
    for (const [column, right] of across) {
      const upper = at(row, column) * (1 - right) + at(row, column + 1) * right;
      const lower = at(row + 1, column) * (1 - right) + at(row + 1, column + 1) * right;
      data[next++] = upper * (1 - down) + lower * down >= threshold;
    }
  }
  return { x, y, width: across.length, height: along.length, data };
}

// Return the label of each pixel of the photo from logits (1, classes, h, w).
export function labelsFromLogits({ data, dims: [, classes, h, w] }, width, height, alignCorners) {
  const labels = new Uint16Array(width * height);
  const best = new Float32Array(width * height).fill(-Infinity);
  for (let label = 0; label < classes; label++) {
    const values = data.subarray(label * h * w, (label + 1) * h * w);
    const scores = resizeValues(values, [w, h], [width, height], alignCorners);
    for (let i = 0; i < scores.length; i++) {
      if (scores[i] > best[i]) [best[i], labels[i]] = [scores[i], label];
    }
  }
  return labels;
}

// Enlarge a label map (1, h, w) to the photo's size by the nearest pixel.
export function labelsFromMap({ data, dims: [, h, w] }, width, height) {
  const nearest = (i, from, to) => Math.floor(((i + 0.5) * from) / to);
  return Uint16Array.from({ length: width * height }, (_, i) => {
    const row = nearest(Math.floor(i / width), h, height);
    return Number(data[row * w + nearest(i % width, w, width)]);
  });
}
