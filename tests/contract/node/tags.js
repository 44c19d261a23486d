// The parts that the scripts share: connecting, node ids, reading what a value carries.
"use strict";

const { AttributeIds, OPCUAClient, StatusCodes, DataType } = require("node-opcua-client");

const STATION = "line1";

async function withSession(endpoint, use, options = {}, identity = undefined) {
  const client = OPCUAClient.create({
    endpointMustExist: false,
    connectionStrategy: { maxRetry: 0 },
    ...options,
  });
  try {
    await client.connect(endpoint);
    const session = await client.createSession(identity);
    try {
      return await use(session, client);
    } finally {
      await session.close();
    }
  } finally {
    await client.disconnect();
  }
}

async function nodeIds(session) {
  const namespace = (await session.readNamespaceArray()).indexOf("urn:cangate");
  return (tag) => `ns=${namespace};s=${STATION}.${tag}`;
}

function plain(value) {
  return ArrayBuffer.isView(value) ? Array.from(value) : value;
}

async function readTags(session, nodeId, tags) {
  const values = await session.read(tags.map((tag) => ({ nodeId: nodeId(tag), attributeId: AttributeIds.Value })));
  return Object.fromEntries(tags.map((tag, index) => [tag, plain(values[index].value.value)]));
}

function report(result) {
  process.stdout.write(JSON.stringify(result) + "\n");
}

function main(run) {
  run(...process.argv.slice(2)).then(
    (result) => {
      report(result);
      process.exit(0);
    },
    (error) => {
      report({ error: error.message });
      process.exit(1);
    }
  );
}

module.exports = { AttributeIds, DataType, StatusCodes, main, nodeIds, plain, readTags, withSession };
