#!/usr/bin/env python3
"""Print where the kernels of a report of Nsight Compute spend their time, by source line, as JSON.

    ncu_lines.py REPORT.ncu-rep [FOLDER OF ncu_report]

    [{"kernel": "...", "lines": [{"file": "...", "line": 12, "samples": 345}, ...]}, ...]

The most samples come first. Needs the Python interface that comes with Nsight Compute (ncu_report).
"""
import collections
import json
import sys

# Samples of the program counter, or, where there are none, how often instructions were executed.
COUNTERS = ("smsp__pcsamp_sample_count", "smsp__pcsamp_sample_buffer_full", "inst_executed")
LINES = 12


def lines(action):
    """Source lines of a kernel, by samples."""
    for name in COUNTERS:
        metric = action.metric_by_name(name)
        if metric is not None and metric.num_instances() > 1:
            break
    else:
        return []
    addresses = metric.correlation_ids()
    counts = collections.Counter()
    for i in range(metric.num_instances()):
        source = action.source_info(addresses.as_uint64(i))
        if source is not None:
            counts[source.file_name(), source.line()] += metric.as_uint64(i)
    return [{"file": file, "line": line, "samples": n} for (file, line), n in counts.most_common(LINES)]


def main(report, folder=None):
    if folder:
        sys.path.insert(0, folder)
    import ncu_report

    context = ncu_report.load_report(report)
    ranges = (context.range_by_idx(i) for i in range(context.num_ranges()))
    actions = (r.action_by_idx(i) for r in ranges for i in range(r.num_actions()))
    print(json.dumps([{"kernel": action.name(), "lines": lines(action)} for action in actions]))


if __name__ == "__main__":
    main(*sys.argv[1:])
