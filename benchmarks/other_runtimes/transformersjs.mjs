// Continues prompts with transformers.js on Node.
//
//     node transformersjs.mjs NODE_MODULES FOLDER prompts.json said.json

import { readFileSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { basename, dirname, join, resolve } from 'node:path';

const [modules, folder, asked, out] = process.argv.slice(2).map((path) => resolve(path));
const { AutoModelForCausalLM, AutoModelForImageTextToText, Tensor, env } = createRequire(join(modules, 'x.js'))(
  '@huggingface/transformers',
);
env.allowRemoteModels = false;
env.localModelPath = dirname(folder);

/** A float32 array of an .npy file, as a tensor. */
function loaded(path) {
  const bytes = readFileSync(path);
  const start = 10 + bytes.readUInt16LE(8);
  const header = bytes.toString('latin1', 10, start);
  if (bytes[6] !== 1 || !header.includes("'descr': '<f4'") || !header.includes("'fortran_order': False")) {
    throw new Error(`${path} holds no plain float32 array`);
  }
  const shape = header.match(/'shape': \(([^)]*)\)/)[1].split(',').filter((part) => part.trim()).map(Number);
  return new Tensor('float32', new Float32Array(new Uint8Array(bytes.subarray(start)).buffer), shape);
}

const told = JSON.parse(readFileSync(asked, 'utf-8'));
const config = JSON.parse(readFileSync(join(folder, 'config.json'), 'utf-8'));
const family = config.vision_config ? AutoModelForImageTextToText : AutoModelForCausalLM;
const model = await family.from_pretrained(basename(folder), { device: 'cpu', dtype: 'fp32', local_files_only: true });

const said = {};
for (const prompt of told.prompts) {
  const shape = [1, prompt.ids.length];
  const sequences = await model.generate({
    input_ids: new Tensor('int64', BigInt64Array.from(prompt.ids, BigInt), shape),
    attention_mask: new Tensor('int64', new BigInt64Array(prompt.ids.length).fill(1n), shape),
    ...(prompt.images ? { pixel_values: loaded(join(dirname(asked), prompt.images)) } : {}),
    max_new_tokens: told.max_new_tokens,
    do_sample: false,
  });
  said[prompt.id] = sequences.tolist()[0].slice(prompt.ids.length).map(Number);
}

const version = (name) => JSON.parse(readFileSync(join(modules, name, 'package.json'), 'utf-8')).version;
const names = ['@huggingface/transformers', 'onnxruntime-node'];
const versions = { ...Object.fromEntries(names.map((name) => [name, version(name)])), node: process.versions.node };
writeFileSync(out, JSON.stringify({ versions, said }));
