// Predict a photo in the browser, and draw boxes and masks, or the labels of its pixels.

import * as ort from './ort.wasm.bundle.min.mjs';
import { labelsFromLogits, labelsFromMap, modelInput, pasteMask, resizedSize } from './image.js';

const find = (selector) => document.querySelector(selector);
const query = new URLSearchParams(location.search);
const canvas = find('canvas'), context = canvas.getContext('2d', { willReadFrequently: true });
const slider = find('#threshold');
let meta, session, photo, objects, labels;

ort.env.wasm.numThreads = 1; // threads need headers that simple servers do not send
ort.env.wasm.wasmPaths = { wasm: new URL('ort-wasm-simd-threaded.wasm', location).href };

async function load() {
  meta = await (await fetch('model.json')).json();
  session = await ort.InferenceSession.create('model.onnx');
  find('#about').textContent = meta.task;
  find('label[for=threshold]').hidden = !('boxes' in meta.outputs);
  slider.value = query.get('score') ?? slider.value;
  say('Ready.');
  if (query.get('image')) await predict(await (await fetch(query.get('image'))).blob());
}

// Say what is being done, then do it; an error is shown.
async function busy(text, work) {
  document.body.ariaBusy = true;
  say(text);
  await new Promise((resolve) => setTimeout(resolve)); // shows the text first
  await work().catch((error) => say(`This failed: ${error.message}`));
  document.body.ariaBusy = false;
}

const className = (label) => meta.classes?.[label] ?? `class ${label}`;

function say(text) {
  find('#status').textContent = text;
}

async function predict(blob) {
  [find('main').hidden, photo] = [true, undefined]; // until the new result is there
  const bitmap = await createImageBitmap(blob, { colorSpaceConversion: 'none' }); // turned by EXIF
  const { width, height } = Object.assign(canvas, { width: bitmap.width, height: bitmap.height });
  context.drawImage(bitmap, 0, 0);
  const pixels = context.getImageData(0, 0, width, height);
  const start = performance.now();
  const [w, h] = resizedSize(meta.resize, width, height);
  if (Math.min(w, h) < meta.input.min_size) throw Error(`${w} x ${h} pixels are too few`);
  const image = new ort.Tensor('float32', modelInput(pixels, [w, h]), [1, 3, h, w]);
  const outputs = await session.run({ image });
  if (outputs.boxes) objects = readObjects(outputs, pixels, width / w, height / h);
  else if (outputs.label_map) labels = labelsFromMap(outputs.label_map, width, height);
  else labels = labelsFromLogits(outputs.logits, width, height, meta.outputs.logits.align_corners);
  const seconds = (performance.now() - start) / 1000;
  [find('main').hidden, photo] = [false, pixels];
  draw();
  say(`${width} x ${height} pixels, ${seconds.toFixed(2)} s`);
}

// Return the objects with boxes and masks in the photo's pixels, best first.
function readObjects({ boxes, scores, labels: numbers, masks }, pixels, scaleX, scaleY) {
  const threshold = meta.thresholds.mask_thr;
  return Array.from(scores.data, (score, i) => {
    const [x1, y1, x2, y2] = boxes.data.subarray(4 * i, 4 * i + 4);
    const box = [x1 * scaleX, y1 * scaleY, x2 * scaleX, y2 * scaleY];
    const object = { score, box, label: Number(numbers.data[i]), area: '' };
    if (!masks) return object;
    const size = masks.dims.slice(1);
    const probabilities = masks.data.subarray(i * size[0] * size[1], (i + 1) * size[0] * size[1]);
    const mask = pasteMask(probabilities, size, box, pixels, threshold);
    return { ...object, mask, area: mask.data.reduce((sum, pixel) => sum + pixel, 0) };
  });
}

// Return the color of a class; the hues of two classes in a row differ by the golden angle.
function rgb(label) {
  const hue = (label * 137.508 + 210) / 30;
  return [0, 8, 4].map((shift) => {
    const place = (shift + hue) % 12;
    return Math.round(255 * (0.45 - 0.4 * Math.max(-1, Math.min(place - 3, 9 - place, 1))));
  });
}

// Blend a pixel with the color of a class.
function blend({ data }, pixel, label, weight) {
  const color = rgb(label);
  for (let k = 0; k < 3; k++) data[4 * pixel + k] += weight * (color[k] - data[4 * pixel + k]);
}

function drawMask(pixels, { x, y, width, data }, label) {
  const steps = [-width, -1, 1, width];
  data.forEach((inside, i) => {
    if (!inside) return;
    const weight = steps.some((step) => !data[i + step]) ? 0.9 : 0.45; // of an edge
    blend(pixels, (y + Math.floor(i / width)) * pixels.width + x + (i % width), label, weight);
  });
}

function draw() {
  find('output').textContent = Number(slider.value).toFixed(2);
  if (!photo) return;
  const pixels = new ImageData(photo.data.slice(), photo.width, photo.height);
  const rows = labels ? drawLabels(pixels) : drawObjects(pixels);
  find('table').replaceChildren(...rows.map(tableRow));
}

function drawLabels(pixels) {
  const counts = new Map();
  for (const label of labels) counts.set(label, (counts.get(label) ?? 0) + 1);
  labels.forEach((label, i) => blend(pixels, i, label, 0.5));
  context.putImageData(pixels, 0, 0);
  const sorted = [...counts].sort((one, other) => other[1] - one[1]);
  const share = (count) => `${((100 * count) / labels.length).toFixed(2)} %`;
  return [['class', 'pixels'], ...sorted.map(([label, count]) => [label, share(count)])];
}

function drawObjects(pixels) {
  const shown = objects.filter(({ score }) => score >= slider.value);
  for (const { mask, label } of [...shown].reverse()) if (mask) drawMask(pixels, mask, label);
  context.putImageData(pixels, 0, 0);
  const line = Math.max(1, Math.round((photo.width + photo.height) / 700));
  const size = 7 * line + 5;
  Object.assign(context, { lineWidth: line, font: `${size}px system-ui, sans-serif`, textBaseline: 'top' });
  for (const { box: [x1, y1, x2, y2], label, score } of [...shown].reverse()) {
    const text = `${className(label)} ${score.toFixed(2)}`;
    context.strokeStyle = context.fillStyle = `rgb(${rgb(label)})`;
    context.strokeRect(x1, y1, x2 - x1, y2 - y1);
    const x = Math.max(0, Math.min(x1, photo.width - context.measureText(text).width - size / 2));
    const y = Math.max(0, y1 - size * 1.3);
    context.fillRect(x, y, context.measureText(text).width + size / 2, size * 1.3);
    context.fillStyle = 'white';
    context.fillText(text, x + size / 4, y + size * 0.15);
  }
  const number = (value) => value.toFixed(1);
  return [
    ['class', 'score', 'x1', 'y1', 'x2', 'y2', 'area'],
    ...shown.map(({ label, score, box, area }) => [label, score.toFixed(3), ...box.map(number), area]),
  ];
}

// Return a row of the table; the first row has the names of the columns.
function tableRow([first, ...others], number) {
  const row = document.createElement('tr');
  const cells = [number ? className(first) : first, ...others].map((text) => {
    const cell = document.createElement(number ? 'td' : 'th');
    cell.textContent = text;
    return cell;
  });
  if (number) {
    const patch = document.createElement('i');
    patch.style.background = `rgb(${rgb(first)})`;
    cells[0].prepend(patch);
  }
  row.append(...cells);
  return row;
}

function choose([file]) {
  if (file && document.body.ariaBusy !== 'true') busy('Predicting ...', () => predict(file));
}

slider.addEventListener('input', draw);
find('#drop input').addEventListener('change', (event) => choose(event.target.files));
for (const kind of ['dragover', 'dragleave', 'drop']) {
  document.addEventListener(kind, (event) => {
    event.preventDefault();
    find('#drop').classList.toggle('over', kind === 'dragover');
    if (kind === 'drop') choose(event.dataTransfer.files);
  });
}
busy('Loading the model ...', load);
