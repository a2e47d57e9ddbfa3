// Asks a server what is in the cassettes of the tests, and prints what it has seen as one line of JSON.
//
//     node client.mjs NODE_MODULES PACKAGE URL | COMMAND ...
//
// The package is `@modelcontextprotocol/sdk` (line 1) or `@modelcontextprotocol/client` (line 2).

import { createRequire } from 'node:module';
import { join } from 'node:path';

const [modules, name, ...target] = process.argv.slice(2);
const load = createRequire(join(modules, 'anything.cjs'));
const isLine1 = name === '@modelcontextprotocol/sdk';
const parts = isLine1 ? ['/client/index.js', '/client/stdio.js', '/client/streamableHttp.js', '/types.js'] : ['', '/stdio'];
const sdk = Object.assign({}, ...parts.map(part => load(name + part)));

const seen = { steps: [], questions: [], errors: [], has_closed: false };
const options = { capabilities: { elicitation: { form: {} } }, versionNegotiation: { mode: 'auto' } };
const client = new sdk.Client({ name: 'tests', version: '1' }, options);
client.onerror = error => seen.errors.push(String(error));
client.onclose = () => { seen.has_closed = true; };
client.setRequestHandler(isLine1 ? sdk.ElicitRequestSchema : 'elicitation/create', request => {
    seen.questions.push(request.params.message);
    return { action: 'accept', content: { number: 3 } };
});

const isUrl = target[0].startsWith('http:');
const transport = isUrl
    ? new sdk.StreamableHTTPClientTransport(new URL(target[0]))
    : new sdk.StdioClientTransport({ command: target[0], args: target.slice(1), stderr: 'ignore' });
const call = (tool, given, more) => {
    const params = { name: tool, arguments: given };
    return isLine1 ? client.callTool(params, undefined, more) : client.callTool(params, more);
};
const text = async (...given) => (await call(...given)).content[0].text;
const refused = async promise => {
    try {
        await promise;
    } catch (error) {
        return { code: error.code, message: error.message };
    }
};

await client.connect(transport);
seen.version = client.getNegotiatedProtocolVersion?.() ?? null; // line 1 does not tell
seen.tools = (await client.listTools()).tools.map(tool => tool.name).sort();
seen.add = await text('add', { a: 1, b: 2 });
seen.reported = await text('steps', { count: 3 }, { onprogress: ({ progress, total }) => seen.steps.push([progress, total]) });
seen.asked = await text('ask', {});
seen.has_failed = (await call('fail', {})).isError;
seen.unknown = (await refused(client.getPrompt({ name: "nobody's", arguments: {} }))).code;
seen.memo = (await client.readResource({ uri: 'memo://1' })).contents[0].text;
seen.prompt = (await client.getPrompt({ name: 'greet', arguments: { name: 'Ann' } })).messages[0].content.text;
seen.miss = await refused(call('nothing', {}));
// What is said of streams that the client itself ends comes below this.
const errors = [...seen.errors];
if (isUrl) {
    await transport.terminateSession();
}
await client.close();
console.log(JSON.stringify({ ...seen, errors }));
