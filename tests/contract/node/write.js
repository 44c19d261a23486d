// write.js ENDPOINT: tries writes that must be refused and prints the status of each.
"use strict";

const { AttributeIds, DataType, StatusCodes, main, nodeIds, withSession } = require("./tags");
const { Variant, VariantArrayType } = require("node-opcua-client");

main(async (endpoint) =>
  withSession(endpoint, async (session) => {
    const nodeId = await nodeIds(session);
    const write = async (tag, value, statusCode = StatusCodes.Good) =>
      (await session.write({ nodeId: nodeId(tag), attributeId: AttributeIds.Value, value: { value, statusCode } })).name;
    return {
      verdict: await write("Verdict", { dataType: DataType.UInt16, value: 1 }),
      reject: await write("Reject", { dataType: DataType.Boolean, value: false }),
      boxes: await write("Boxes", new Variant({ dataType: DataType.Int32, arrayType: VariantArrayType.Array, value: [1] })),
      signed: await write("Trigger", { dataType: DataType.Int32, value: 1 }),
      text: await write("Trigger", { dataType: DataType.String, value: "1" }),
      number: await write("TriggerPartId", { dataType: DataType.UInt32, value: 1 }),
      array: await write(
        "Trigger", new Variant({ dataType: DataType.UInt32, arrayType: VariantArrayType.Array, value: [1] })
      ),
      bad: await write("Trigger", { dataType: DataType.UInt32, value: 1 }, StatusCodes.BadNoData),
      good: await write("Trigger", { dataType: DataType.UInt32, value: 1 }),
    };
  })
);
