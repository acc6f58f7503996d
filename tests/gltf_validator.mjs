// Prints the Khronos validator's report on one GLB as JSON: node tests/gltf_validator.mjs file.glb
import { readFile } from "node:fs/promises";
import { validateBytes } from "gltf-validator";

const bytes = new Uint8Array(await readFile(process.argv[2]));
const report = await validateBytes(bytes, { maxIssues: 100 });
console.log(JSON.stringify(report.issues));
