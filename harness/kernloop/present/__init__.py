# SPDX-License-Identifier: Apache-2.0
"""What a run has come to, for those outside: as JSON, as a page, as JUnit XML."""

from kernloop.present.outcome import conclude, failure_json, outcome_json, plain

__all__ = ["conclude", "failure_json", "outcome_json", "plain"]
