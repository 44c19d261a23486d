// plc.js PORT PKI [OPTIONS]: a PLC with an OPC UA server of its own. It prints {"listening": endpoint}, takes commands
// from standard input, one JSON object a line, and prints each result that is written to it.
//   {"op": "trigger", "trigger": 7, "part_id": "C-7", "image_uri": "file:///7.png", "event_id": ""}
//   {"op": "give", "first": 1, "count": 1000, "rate": 20, "images": ["file:///1.png"]}: triggers at a steady rate
//   {"op": "read", "word": "heartbeat"}
// OPTIONS: {"namespaces": [...], "types": {...}, "readOnly": [...], "user": [name, password], "secure": true or "only",
//   "samplingMs": 50: changes within so long are told as one; left out, every change is told. "publishingMs": 50,
//   "maxSessions": 1}
"use strict";

console.log = console.error; // node-opcua's own log: standard output is for the one who started this
const readline = require("node:readline");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { DataType, MessageSecurityMode, SecurityPolicy } = require("node-opcua-client");
const { nodesets } = require("node-opcua-nodesets");
const { OPCUAServer, Subscription } = require("node-opcua-server");

const URI = "urn:plc";
const TYPES = {
  trigger: "UInt32", part_id: "String", image_uri: "String", event_id: "String", verdict: "Int16", reject: "Boolean",
  score: "Float", result_part_id: "String", result_trigger_id: "UInt32", result_seq: "UInt32", heartbeat: "UInt32",
};
const START = { String: "", Boolean: false };

const say = (object) => process.stdout.write(JSON.stringify(object) + "\n");
const now = () => Number(process.hrtime.bigint()) / 1e6;

async function main(port, rootFolder, text = "{}") {
  const options = JSON.parse(text);
  if (options.publishingMs) Subscription.minimumPublishingInterval = options.publishingMs;
  const certificates = new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true });
  await certificates.initialize();
  const server = new OPCUAServer({
    port: Number(port),
    hostname: "127.0.0.1",
    resourcePath: "/plc",
    nodeset_filename: [nodesets.standard],
    serverCertificateManager: certificates,
    userCertificateManager: certificates,
    securityPolicies: [
      ...(options.secure ? [SecurityPolicy.Basic256Sha256, SecurityPolicy.Aes256_Sha256_RsaPss] : []),
      ...(options.secure === "only" ? [] : [SecurityPolicy.None]),
    ],
    securityModes: [
      ...(options.secure ? [MessageSecurityMode.SignAndEncrypt] : []),
      ...(options.secure === "only" ? [] : [MessageSecurityMode.None]),
    ],
    allowAnonymous: !options.user,
    userManager: { isValidUser: (name, password) => options.user && name === options.user[0] && password === options.user[1] },
    disableDiscovery: true,
    serverCapabilities: { minSupportedSampleRate: options.samplingMs ?? 0, maxSessions: options.maxSessions ?? 10 },
  });
  await server.initialize();
  const addressSpace = server.engine.addressSpace;
  for (const uri of options.namespaces || []) addressSpace.registerNamespace(uri);
  const namespace = addressSpace.registerNamespace(URI);
  const block = namespace.addObject({ browseName: "line1", organizedBy: addressSpace.rootFolder.objects });
  const nodes = {};
  for (const [word, dataType] of Object.entries({ ...TYPES, ...options.types })) {
    const access = (options.readOnly || []).includes(word) ? "CurrentRead" : "CurrentRead | CurrentWrite";
    nodes[word] = namespace.addVariable({
      componentOf: block, browseName: word, nodeId: `s=line1.${word}`, dataType, minimumSamplingInterval: 0,
      accessLevel: access, userAccessLevel: access, value: { dataType: DataType[dataType], value: START[dataType] ?? 0 },
    });
  }
  const held = (word) => nodes[word].readValue().value.value;
  const set = (word, value) => nodes[word].setValueFromSource({ dataType: DataType[options.types?.[word] || TYPES[word]], value });
  const givenAt = new Map();
  const give = (trigger, texts) => {
    for (const word of ["part_id", "image_uri", "event_id"]) set(word, texts[word] || "");
    givenAt.set(trigger, now());
    set("trigger", trigger);
  };
  let sequence = 0;
  nodes.result_seq.on("value_changed", () => {
    if (held("result_seq") === sequence) return;
    sequence = held("result_seq");
    const trigger = held("result_trigger_id");
    say({
      result: {
        seq: sequence, trigger_id: trigger, part_id: held("result_part_id"), verdict: held("verdict"),
        reject: held("reject"), score: held("score"), after_ms: givenAt.has(trigger) ? now() - givenAt.get(trigger) : null,
      },
    });
  });
  const operations = {
    trigger: ({ trigger, ...texts }) => give(trigger, texts),
    read: ({ word }) => say({ read: held(word) }),
    give: ({ first, count, rate, images }) => {
      const began = now();
      let given = 0;
      const timer = setInterval(() => {
        while (given < count && now() - began >= (given * 1000) / rate) {
          const trigger = first + given++;
          give(trigger, { part_id: `C-${trigger}`, image_uri: images[trigger % images.length], event_id: `plc-${trigger}` });
        }
        if (given === count) {
          clearInterval(timer);
          say({ given });
        }
      }, 1);
    },
  };
  await server.start();
  say({ listening: `opc.tcp://127.0.0.1:${port}/plc` });
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const command = JSON.parse(line);
    operations[command.op](command);
  }).on("close", () => process.exit(0));
}

main(...process.argv.slice(2)).catch((error) => {
  say({ error: error.stack });
  process.exit(1);
});
