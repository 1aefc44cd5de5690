"""What the tiers of the tests share; no tier imports another.

selection.py       which tests a run has: `thorough` ones only in make test-all
brokers.py         pytest options and fixtures: shared clusters, clusters of one's own, unique names
shared_clusters.py one pair of clusters for all processes of a run
groups_of_tests.py sends the tests of one group to one process
run_ids.py         what makes a test's names its own, and deletes its topics
eventually.py      the only way to wait
records.py         read a topic to its stable end; produce; create topics
groups.py          what groups committed, checkpoints, members
planes.py          drives a data plane as a task does; lane.py: between topics of its own
replicated_flow.py a flow of a test: names, configuration, and the comparison at the end
flows.py           such a flow, run by a worker in this process
desk.py            the operator's commands against such a flow; in_process.py runs them without a process
worker_process.py  the real process, with kill points (launcher.py); commands.py runs the real commands
compare.py         every record of both clusters, compared
demo.py            the demo as a process
pump.py            a producer that goes on through failures; members.py: consumers that do
certificates.py    CAs and PEM files for secured clusters
"""
