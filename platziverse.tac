from twisted.application.service import Application
from platziverse.service import makeService
makeService().setServiceParent(application := Application("platziverse"))
