"""Autobahn's fuzzing client on CPython 2.7, with one facility per case.

On a shared facility a late message of one case would reach the next.
"""

import json
import sys

from autobahntestsuite import fuzzing
from twisted.internet import reactor


Plain = fuzzing.FuzzingClientProtocol


class OneFacilityEach(Plain):
    def startHandshake(self):
        case = self.factory.currentCaseId
        self.factory.resource = "/ws/case-%s?subscribe-broadcast&publish-broadcast&echo" % case
        return Plain.startHandshake(self)


fuzzing.FuzzingClientProtocol = OneFacilityEach
fuzzing.startClient(json.load(open(sys.argv[1])))
# Stops after the last case.
reactor.run()
