// vision.js ENDPOINT PKI POLICY MODE IMAGE_URI [USER PASSWORD]: uses the OPC 40100-1 model as a SCADA system would, and
// prints what it saw: the object, methods and their results, a part by tags, a part by StartSingleJob, the events.
"use strict";

const { AttributeIds, DataType, main, nodeIds, plain } = require("./tags");
const { withSession } = require("./tags");
const {
  BrowseDirection, MessageSecurityMode, NodeClass, SecurityPolicy, TimestampsToReturn, UserTokenType, Variant,
  VariantArrayType, constructEventFilter, coerceNodeId, makeBrowsePath,
} = require("node-opcua-client");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");

const STANDARD = "http://opcfoundation.org/UA/MachineVision";
const RESULT_FIELDS = [
  "CreationTime", "InternalConfigurationId", "InternalRecipeId", "ExternalRecipeId", "IsPartial", "IsSimulated", "JobId",
  "MeasId", "PartId", "ProcessingTimes", "ResultContent", "ResultId", "ResultState",
];
const BASE_FIELDS = ["EventType", "SourceName", "Message", "Severity", "Time", "EventId"];
const TRANSITION_FIELDS = ["Transition", "Transition.Id", "FromState", "FromState.Id", "ToState", "ToState.Id"];

main(async (endpoint, rootFolder, policy, mode, imageUri, userName, password) => {
  const options = {
    clientCertificateManager: new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true }),
    securityPolicy: SecurityPolicy[policy],
    securityMode: MessageSecurityMode[mode],
  };
  const identity = userName ? { type: UserTokenType.UserName, userName, password } : undefined;
  return withSession(endpoint, (session) => use(session, imageUri), options, identity);
});

async function use(session, imageUri) {
  const namespaces = await session.readNamespaceArray();
  const [own, standard] = ["urn:cangate", STANDARD].map((uri) => namespaces.indexOf(uri));
  const at = async (...names) => {
    const path = names.map((name) => `/${name.startsWith("0:") ? name : `${standard}:${name}`}`).join("");
    const full = `/${own}:VisionSystem${path}`;
    const found = await session.translateBrowsePath(makeBrowsePath("ObjectsFolder", full));
    if (!found.targets || !found.targets.length) throw new Error(`no ${full}`);
    return found.targets[0].targetId;
  };
  const read = async (nodeId) => {
    const value = await session.read({ nodeId, attributeId: AttributeIds.Value });
    return value.statusCode.isGood() ? value.value.value : value.statusCode.name;
  };
  const root = await at();
  const machine = await at("VisionStateMachine");
  const automatic = await at("VisionStateMachine", "AutomaticModeStateMachine");
  const states = async () => {
    const seen = [];
    for (const path of [["VisionStateMachine"], ["VisionStateMachine", "AutomaticModeStateMachine"]]) {
      const state = await read(await at(...path, "0:CurrentState"));
      seen.push(typeof state === "string" ? state : state.text);
    }
    return seen;
  };

  const structure = async (id, fields) => ({
    dataType: DataType.ExtensionObject,
    value: await session.constructExtensionObject(coerceNodeId(`ns=${standard};i=${id}`), fields),
  });
  const call = async (objectId, method, inputArguments) => {
    const methodId = (await session.translateBrowsePath(makeBrowsePath(objectId, `/${standard}:${method}`))).targets[0].targetId;
    const result = await session.call({ objectId, methodId, inputArguments });
    return {
      methodId: methodId.toString(),
      status: result.statusCode.name,
      outputs: (result.outputArguments || []).map((output) => ({ type: DataType[output.dataType], value: jsonable(output.value) })),
    };
  };
  const text = (value) => ({ dataType: DataType.String, value });
  const int32 = (value) => ({ dataType: DataType.Int32, value });
  const uint32 = (value) => ({ dataType: DataType.UInt32, value });
  const cause = () => [int32(1), text("asked by a test")];

  // events, at both notifiers
  const fields = [
    ...BASE_FIELDS, ...TRANSITION_FIELDS, ...RESULT_FIELDS.map((name) => `${standard}:${name}`), `${standard}:InternalId`,
  ];
  const events = [];
  let heard = () => {};
  const subscription = await session.createSubscription2({
    requestedPublishingInterval: 20, requestedMaxKeepAliveCount: 100, requestedLifetimeCount: 1000, publishingEnabled: true,
  });
  for (const [notifier, nodeId] of [["VisionSystem", root], ["Server", coerceNodeId("i=2253")]]) {
    const item = await subscription.monitor(
      { nodeId, attributeId: AttributeIds.EventNotifier },
      { samplingInterval: 0, queueSize: 1000, discardOldest: true, filter: constructEventFilter(fields) },
      TimestampsToReturn.Both
    );
    item.on("changed", (values) => {
      const event = { notifier };
      fields.forEach((name, index) => {
        const value = values[index];
        if (value.dataType === DataType.Null) return;
        const array = value.arrayType === VariantArrayType.Array ? "[]" : "";
        event[name.replace(/^\d+:/, "")] = { type: DataType[value.dataType] + array, value: jsonable(value.value) };
      });
      events.push(event);
      heard();
    });
  }
  const results = (notifier, partId) =>
    events.filter((event) => event.notifier === notifier && event.ResultId && event.PartId.value.id === partId);
  const resultOf = async (partId) => {
    while (!results("VisionSystem", partId).length || !results("Server", partId).length)
      await new Promise((resolve) => (heard = resolve));
    return { atVisionSystem: results("VisionSystem", partId)[0], atServer: results("Server", partId)[0] };
  };

  const seen = { namespaces, tree: await tree(session, root), before: await states() };
  seen.metadata = await metadata(session);

  // a part by tags
  const tag = await nodeIds(session);
  const write = (name, dataType, value) =>
    session.write({ nodeId: tag(name), attributeId: AttributeIds.Value, value: { value: { dataType, value } } });
  await write("TriggerPartId", DataType.String, "by-tags");
  await write("TriggerImageUri", DataType.String, imageUri);
  await write("TriggerEventId", DataType.String, "event-by-tags");
  seen.triggered = (await write("Trigger", DataType.UInt32, 1)).name;
  seen.byTags = await resultOf("by-tags");

  // a part by method
  const job = async (method, partId, uri) =>
    call(automatic, method, [
      await structure(3015, { id: "measurement" }),
      await structure(3004, { id: partId }),
      await structure(3002, { id: "" }),
      await structure(3003, { id: "product" }),
      new Variant({
        dataType: DataType.Variant, arrayType: VariantArrayType.Array,
        value: uri ? [new Variant({ dataType: DataType.String, value: uri })] : [],
      }),
    ]);
  seen.startSingleJob = await job("StartSingleJob", "by-method", imageUri);
  seen.byMethod = await resultOf("by-method");
  const management = await at("ResultManagement");
  const resultId = seen.byMethod.atServer.ResultId.value.id;
  seen.getResultById = await call(management, "GetResultById", [await structure(3021, { id: resultId }), int32(1000)]);
  seen.getUnknown = await call(management, "GetResultById", [await structure(3021, { id: "nonsense" }), int32(0)]);
  seen.components = await call(management, "GetResultComponentsById", [await structure(3021, { id: resultId }), int32(0)]);
  const none = async (id) => structure(id, { id: "" });
  seen.list = await call(management, "GetResultListFiltered", [
    int32(0), await structure(3015, { id: "measurement" }), await none(3004), await none(3002), await none(3013),
    await none(3008), await none(3008), await none(3003), await none(3016), uint32(10), uint32(0), int32(0),
  ]);
  const handle = seen.getResultById.outputs[0].value;
  seen.release = await call(management, "ReleaseResultHandle", [uint32(handle)]);
  seen.releaseAgain = await call(management, "ReleaseResultHandle", [uint32(handle)]);

  // recipes and configuration
  const recipes = await at("RecipeManagement");
  seen.recipes = await call(recipes, "GetRecipeListFiltered", [
    await none(3002), await none(3003), int32(2), uint32(0), uint32(0), int32(0),
  ]);
  const recipe = seen.recipes.outputs[3].value[0];
  seen.prepare = await call(recipes, "PrepareRecipe", [await none(3002), await structure(3013, { id: recipe.id })]);
  const configurations = await at("ConfigurationManagement");
  seen.configurations = await call(configurations, "GetConfigurationList", [uint32(0), uint32(0), int32(0)]);

  // a job of many parts, then the main machine
  seen.startContinuous = await job("StartContinuous", "", "");
  seen.running = await states();
  seen.startWhileRunning = await job("StartSingleJob", "x", imageUri);
  seen.stop = await call(automatic, "Stop", cause());
  seen.halt = await call(machine, "Halt", cause());
  seen.halted = await states();
  seen.startWhileHalted = await job("StartSingleJob", "x", imageUri);
  seen.reset = await call(machine, "Reset", cause());
  seen.preoperational = await states();
  seen.select = await call(machine, "SelectModeAutomatic", []);
  seen.after = await states();
  seen.wrong = {
    missing: (await call(machine, "Halt", [int32(1)])).status,
    many: (await call(machine, "SelectModeAutomatic", [int32(1)])).status,
    type: (await call(machine, "Halt", [text("1"), text("")])).status,
  };
  const quiet = events.length;
  while (!events.some((event) => event.ToState && event.ToState.value.text === "Initialized" && events.indexOf(event) > 2))
    await new Promise((resolve) => (heard = resolve));
  seen.transitions = events
    .filter((event) => event.notifier === "Server" && event.EventType.value === `ns=${standard};i=1018`)
    .map((event) => event.Transition.value.text);
  seen.eventTypes = [...new Set(events.map((event) => event.EventType.value))].sort();
  seen.quiet = quiet;
  return seen;
}

async function tree(session, nodeId, depth = 0) {
  const found = await session.browse({ nodeId, browseDirection: BrowseDirection.Forward, referenceTypeId: "HierarchicalReferences", includeSubtypes: true, resultMask: 63 });
  const children = {};
  for (const reference of found.references) {
    children[reference.browseName.name] = {
      nodeId: reference.nodeId.toString(),
      class: NodeClass[reference.nodeClass],
      type: reference.typeDefinition ? reference.typeDefinition.toString() : null,
      ...(depth < 3 && reference.nodeClass === NodeClass.Object ? { children: await tree(session, reference.nodeId, depth + 1) } : {}),
    };
  }
  return children;
}

async function metadata(session) {
  const found = await session.browse({ nodeId: "i=11715", browseDirection: BrowseDirection.Forward, resultMask: 63 });
  const reference = found.references.find((one) => one.browseName.name === STANDARD);
  const subset = (await session.translateBrowsePath(makeBrowsePath(reference.nodeId, "/0:IsNamespaceSubset"))).targets[0].targetId;
  return (await session.read({ nodeId: subset, attributeId: AttributeIds.Value })).value.value;
}

function jsonable(value) {
  if (value === null || value === undefined || typeof value !== "object") return value;
  if (value instanceof Date) return value.toISOString();
  if (Buffer.isBuffer(value)) return value.toString("hex");
  if (ArrayBuffer.isView(value)) return plain(value);
  if (Array.isArray(value)) return value.map(jsonable);
  if (value instanceof Variant) return { type: DataType[value.dataType], value: jsonable(value.value) };
  if (value.constructor && value.constructor.name === "NodeId") return value.toString();
  return Object.fromEntries(
    Object.entries(value)
      .filter(([name, field]) => !name.startsWith("$") && typeof field !== "function" && name !== "schema")
      .map(([name, field]) => [name, jsonable(field)])
  );
}
