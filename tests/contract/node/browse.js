// browse.js ENDPOINT: finds the tags under Objects/Cangate/line1 and prints what each of them is.
"use strict";

const { AttributeIds, DataType, main, plain, withSession } = require("./tags");
const { makeBrowsePath } = require("node-opcua-client");

const ATTRIBUTES = ["DataType", "ValueRank", "ArrayDimensions", "UserAccessLevel", "Value"];

main(async (endpoint) =>
  withSession(endpoint, async (session) => {
    const namespaces = await session.readNamespaceArray();
    const ns = namespaces.indexOf("urn:cangate");
    const path = makeBrowsePath("ObjectsFolder", `/${ns}:Cangate/${ns}:line1`);
    const station = (await session.translateBrowsePath(path)).targets[0].targetId;
    const found = await session.browse({ nodeId: station, resultMask: 63 });
    const tags = {};
    for (const { nodeId, browseName } of found.references.filter((reference) => reference.isForward)) {
      if (nodeId.namespace !== ns) continue;
      const read = await session.read(ATTRIBUTES.map((name) => ({ nodeId, attributeId: AttributeIds[name] })));
      const [dataType, rank, dimensions, access] = read.map((value) => value.value.value);
      const value = read[4];
      tags[browseName.name] = {
        nodeId: nodeId.value,
        dataType: DataType[dataType.value],
        rank,
        dimensions: dimensions ? Array.from(dimensions) : null,
        access,
        status: value.statusCode.name,
        variant: DataType[value.value.dataType],
        value: plain(value.value.value),
        sourceTimestamp: value.sourceTimestamp !== null,
      };
    }
    return { namespaces, tags };
  })
);
