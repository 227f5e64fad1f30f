// Reads a JSON list of custom resources, prints a JSON list of what is wrong with them.
//
// Each is held against its definition twice: the validator knows required fields, types, patterns and
// enumerations but lets unknown fields pass; TypeScript, given the object as a literal of the kind's
// interface, refuses a field that the interface does not have.

import { fileURLToPath } from 'node:url';
import path from 'node:path';
import ts from 'typescript';

const HERE = path.dirname(fileURLToPath(import.meta.url));
const PACKAGES = {
  'argoproj.io': 'argo-cd',
  'cert-manager.io': 'cert-manager',
  'trust.cert-manager.io': 'cert-manager',
  'external-secrets.io': 'external-secrets',
  'gateway.networking.k8s.io': 'gateway-api',
  'keda.sh': 'keda',
  'monitoring.coreos.com': 'prometheus-operator',
};

const title = (object) => `${object.kind}/${object.metadata?.name}`;

const read = async () => {
  let text = '';
  for await (const chunk of process.stdin) text += chunk;
  return JSON.parse(text);
};

// The module that defines an object's kind, or undefined where nobody here does.
const moduleOf = async (object) => {
  const [group, version] = object.apiVersion.split('/');
  const name = PACKAGES[group] && `@kubernetes-models/${PACKAGES[group]}/${group}/${version}`;
  if (!name) return undefined;
  try {
    const module = await import(name);
    return module[object.kind] ? { name, Kind: module[object.kind] } : undefined;
  } catch (error) {
    if (error.code === 'ERR_MODULE_NOT_FOUND' || error.code === 'ERR_PACKAGE_PATH_NOT_EXPORTED') return undefined;
    throw error;
  }
};

const valueProblems = (object, Kind) => {
  try {
    new Kind(object).validate();
    return [];
  } catch (error) {
    return [`${title(object)}: ${error.message}`];
  }
};

// Compiles one file that holds every object as a literal of its kind's interface.
const fieldProblems = (known) => {
  const lines = known.flatMap(({ object, name }, at) => [
    `import { I${object.kind} as Kind${at} } from '${name}';`,
    `export const object${at}: Kind${at} = ${JSON.stringify(object)};`,
  ]);
  const file = path.join(HERE, 'objects.generated.ts');
  const options = { noEmit: true, strict: true, skipLibCheck: true, target: ts.ScriptTarget.ES2022, types: [] };
  Object.assign(options, { module: ts.ModuleKind.Node16, moduleResolution: ts.ModuleResolutionKind.Node16 });
  const host = ts.createCompilerHost(options);
  const { getSourceFile, fileExists } = host;
  const source = ts.createSourceFile(file, lines.join('\n'), options.target, true);
  host.getSourceFile = (asked, ...rest) => (asked === file ? source : getSourceFile.call(host, asked, ...rest));
  host.fileExists = (asked) => asked === file || fileExists.call(host, asked);
  const program = ts.createProgram([file], options, host);
  return program.getSemanticDiagnostics(source).map((diagnostic) => {
    const line = source.getLineAndCharacterOfPosition(diagnostic.start).line;
    const message = ts.flattenDiagnosticMessageText(diagnostic.messageText, ' ');
    return `${title(known[Math.floor(line / 2)].object)}: ${message}`;
  });
};

const found = [];
const known = [];
for (const object of await read()) {
  const module = await moduleOf(object);
  if (!module) {
    found.push(`${title(object)}: no definition of this kind is known: ${object.apiVersion}`);
    continue;
  }
  found.push(...valueProblems(object, module.Kind));
  known.push({ object, name: module.name });
}
if (known.length > 0) found.push(...fieldProblems(known));
process.stdout.write(JSON.stringify(found));
