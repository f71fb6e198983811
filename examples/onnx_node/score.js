// Scores pairs of documents and summaries with one ONNX file and the tokenizer of its model.
// node score.js quals.onnx MODEL_FOLDER PAIRS.jsonl [ROWS]

import { readFileSync } from "node:fs";
import { join } from "node:path";
import { Tokenizer } from "@huggingface/tokenizers";
import * as ort from "onnxruntime-node";

const STATUSES = ["ok", "no_pairs", "empty_summary", "empty_document", "error", "unknown_text"];
const [graph, folder, pairs, rows] = process.argv.slice(2);
const readJson = (name) => JSON.parse(readFileSync(join(folder, name), "utf8"));

const tokenizer = new Tokenizer(readJson("tokenizer.json"), {});
const separator = readJson("config.json").sep_token_id;
const session = await ort.InferenceSession.create(graph);

// Token ids without special tokens, and how many there are: the graph does the rest.
function encode(name, text) {
  const { ids } = tokenizer.encode(text, { add_special_tokens: false });
  return {
    [`${name}_ids`]: new ort.Tensor("int64", BigInt64Array.from(ids, BigInt), [1, ids.length]),
    [`${name}_lengths`]: new ort.Tensor("int64", [BigInt(ids.length)], [1]),
  };
}

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

for (const line of readFileSync(pairs, "utf8").trim().split("\n").slice(0, Number(rows ?? Infinity))) {
  const row = JSON.parse(line);
  const found = await session.run({
    ...encode("document", row.document),
    ...encode("summary", row.summary),
  });
  const [, , longest] = found.pair_ids.dims;
  console.log(`${row.id}  ${found.score.data[0].toFixed(4)}  ${STATUSES[found.status.data[0]]}`);
  for (let i = 0; i < found.n_pairs.data[0]; i++) {
    const end = i * longest + Number(found.pair_lengths.data[i]);
    const values = (name) => Array.from(found[name].data.slice(i * longest, end), Number);
    const ids = values("pair_ids").slice(0, -1); // without the end token
    const middle = ids.indexOf(separator);
    const question = tokenizer.decode(ids.slice(0, middle));
    const answer = tokenizer.decode(ids.slice(middle + 1));
    // This is the pair's score in a graph that was exported with --tokens all, the default.
    const score = mean(values("document_logprobs")) - mean(values("summary_logprobs"));
    console.log(`  ${score.toFixed(3).padStart(7)}  ${question} -> ${answer}`);
  }
}
