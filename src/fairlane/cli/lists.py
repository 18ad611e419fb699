"""`fairlane schedulers`, `suites` and `profiles`: what there is, with one line each."""

from fairlane.cli.output import Json, print_json, print_table


def schedulers(json: Json = False) -> None:
    """List the schedulers, and what the artifact calls them.

    \b
    fairlane schedulers
    fairlane schedulers --json
    """
    from fairlane.policies.registry import get_policy, policy_names

    rows = []
    for spec in map(get_policy, policy_names()):
        rows.append(
            {
                "name": spec.name,
                "aliases": list(spec.aliases),
                "options": sorted(spec.options),
                "summary": spec.summary,
            }
        )
    if json:
        print_json(rows)
    else:
        table = [[str(r["name"]), ", ".join(r["aliases"]), str(r["summary"])] for r in rows]
        print_table(("name ", "also ", "what it does "), table)


def suites(json: Json = False) -> None:
    """List the suites, the workloads that have a name.

    \b
    fairlane suites
    """
    from fairlane.workloads import SUITES

    rows = [
        {
            "name": suite.name,
            "profile": suite.profile,
            "clients": suite.config.num_adapters,
            "duration_s": suite.config.duration,
            "needs_trace": suite.needs_trace,
            "figures": list(suite.figures),
            "summary": suite.title,
        }
        for suite in SUITES.values()
    ]
    if json:
        print_json(rows)
    else:
        table = [[suite.name, ", ".join(suite.figures), suite.title] for suite in SUITES.values()]
        print_table(("name ", "figures ", "what is sent "), table)


def profiles(json: Json = False) -> None:
    """List the latency profiles, each of a GPU with a model.

    \b
    fairlane profiles
    """
    from fairlane.simulator.profile import get_profile, profile_names

    found = [get_profile(name) for name in profile_names()]
    if json:
        print_json(
            [
                {
                    "name": profile.name,
                    "memory_tokens": profile.memory_tokens,
                    "summary": profile.summary,
                    "provenance": dict(profile.provenance),
                }
                for profile in found
            ]
        )
    else:
        table = [[p.name, f"{p.memory_tokens:,}", p.summary] for p in found]
        print_table(("name ", "memory", "what it is "), table)
