// login.js ENDPOINT PKI POLICY MODE [USER PASSWORD]: connects, reads Verdict and tries to write Trigger.
"use strict";

const { AttributeIds, DataType, main, nodeIds, readTags, withSession } = require("./tags");
const { OPCUACertificateManager } = require("node-opcua-certificate-manager");
const { MessageSecurityMode, SecurityPolicy, UserTokenType } = require("node-opcua-client");

main(async (endpoint, rootFolder, policy, mode, userName, password) => {
  const clientCertificateManager = new OPCUACertificateManager({ rootFolder, automaticallyAcceptUnknownCertificate: true });
  const options = {
    clientCertificateManager,
    securityPolicy: SecurityPolicy[policy],
    securityMode: MessageSecurityMode[mode],
  };
  const identity = userName ? { type: UserTokenType.UserName, userName, password } : undefined;
  return withSession(
    endpoint,
    async (session) => {
      const nodeId = await nodeIds(session);
      const { Verdict } = await readTags(session, nodeId, ["Verdict"]);
      const value = { value: { dataType: DataType.UInt32, value: 1 } };
      const write = await session.write({ nodeId: nodeId("Trigger"), attributeId: AttributeIds.Value, value });
      return { verdict: Verdict, write: write.name };
    },
    options,
    identity
  );
});
