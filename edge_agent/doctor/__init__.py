"""doctor: a check for each thing that goes wrong on a site. Rules judge what probes have seen; nothing is changed."""
