// Runs ESRGAN-medium x4 on one image: raw RGB bytes on standard input, raw RGB bytes (4x) on standard output.
// Usage: node upscale.mjs NODE_MODULES WIDTH HEIGHT < in.rgb > out.rgb
import { createRequire } from "node:module";
import { readFileSync } from "node:fs";
import path from "node:path";

const [modules, width, height] = process.argv.slice(2);
const require = createRequire(path.join(path.resolve(modules), "x.js"));
const tf = require("@tensorflow/tfjs");
const { setWasmPaths } = require("@tensorflow/tfjs-backend-wasm");
const { getESRGANModelDefinition } = require(
  path.join(path.resolve(modules), "@upscalerjs/esrgan-medium/dist/cjs/packages/shared/src/esrgan/esrgan.js"));

setWasmPaths(path.join(path.resolve(modules), "@tensorflow/tfjs-backend-wasm/dist/"));
await tf.setBackend("wasm");
const definition = getESRGANModelDefinition({ scale: 4, name: "esrgan-medium", version: "1.0.0",
  meta: { architecture: "rrdn" } });
definition.setup(tf); // registers the model's own layers

const folder = path.join(path.resolve(modules), "@upscalerjs/esrgan-medium/models/x4");
const json = JSON.parse(readFileSync(path.join(folder, "model.json")));
const weights = Buffer.concat(json.weightsManifest.flatMap((group) => group.paths)
  .map((name) => readFileSync(path.join(folder, name))));
const model = await tf.loadLayersModel(tf.io.fromMemory({
  modelTopology: json.modelTopology,
  weightSpecs: json.weightsManifest.flatMap((group) => group.weights),
  weightData: weights.buffer.slice(weights.byteOffset, weights.byteOffset + weights.byteLength),
}));

const pixels = Uint8Array.from(readFileSync(0));
const input = tf.tensor(pixels, [1, Number(height), Number(width), 3], "float32").div(255);
const output = model.predict(input).mul(255).clipByValue(0, 255).round();
process.stdout.write(Buffer.from(Uint8Array.from(await output.data())));
