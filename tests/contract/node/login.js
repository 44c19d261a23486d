// login.js ENDPOINT PKI ATTEMPTS: connects once for each of ATTEMPTS, a JSON list of [policy, mode, user?, password?];
// reads Verdict and tries to write Trigger. Prints a list of what came of each.
"use strict";

const { AttributeIds, DataType, main, nodeIds, readTags, withSession } = require("./tags");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy, UserTokenType } = require("node-opcua-client");

async function readAndWrite(session) {
  const nodeId = await nodeIds(session);
  const { Verdict } = await readTags(session, nodeId, ["Verdict"]);
  const value = { value: { dataType: DataType.UInt32, value: 1 } };
  const write = await session.write({ nodeId: nodeId("Trigger"), attributeId: AttributeIds.Value, value });
  return { verdict: Verdict, write: write.name };
}

main(async (endpoint, rootFolder, attempts) => {
  const seen = [];
  for (const [policy, mode, userName, password] of JSON.parse(attempts)) {
    const options = {
      clientCertificateManager: new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true }),
      securityPolicy: SecurityPolicy[policy],
      securityMode: MessageSecurityMode[mode],
    };
    const identity = userName ? { type: UserTokenType.UserName, userName, password } : undefined;
    try {
      seen.push(await withSession(endpoint, readAndWrite, options, identity));
    } catch (error) {
      seen.push({ error: error.message });
    }
  }
  return seen;
});
