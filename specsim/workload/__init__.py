"""What users ask of a deployment, and what became of each request."""

from specsim.workload.log import RequestLog, StepLog
from specsim.workload.requests import Requests

__all__ = ["RequestLog", "Requests", "StepLog"]
