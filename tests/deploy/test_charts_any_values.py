"""Charts with values nobody here chose: each renders objects that are valid and keep the rules, or says why not."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import schemas
import test_charts
import yaml
from any_values import Draw
from charts import CHARTS, Case, containers, pod_templates, template

SEEDS = range(12)
# Variables, accounts and versions are the values' own here.
RULES = test_charts.RULES.keys() - {
    "carries no secret in its manifest",
    "has an account of its own",
    "has a fixed version",
}


@pytest.mark.parametrize("chart", ["exporters", "llm-server", "platform", "router"])
def test_any_allowed_values_render_or_are_refused_with_a_reason(chart: str, helm: Path, tmp_path: Path) -> None:
    rendered = 0
    for seed in SEEDS:
        values = Draw(CHARTS / chart / "values.schema.json", f"{chart}-{seed}").values()
        file = tmp_path / f"{seed}.yaml"
        file.write_text(yaml.safe_dump(values))
        run = template(helm, Case(chart, None), "--values", str(file))
        about = f"seed {seed}: {json.dumps(values)}"
        if run.returncode != 0:
            # Said by the chart itself: neither the schema, which allows them, nor a template that stumbled.
            assert "execution error at" in run.stderr, f"{about}\n{run.stderr}"
            reason = run.stderr.partition("): ")[2].partition("\n")[0]
            assert len(reason.split()) > 5, f"{about}\n{run.stderr}"
            continue
        rendered += 1
        objects = [item for item in yaml.safe_load_all(run.stdout) if item]
        core = [item for item in objects if "." not in item["apiVersion"] or item["apiVersion"].endswith(".k8s.io/v1")]
        core = [item for item in core if not item["apiVersion"].startswith("gateway.")]
        assert schemas.problems(core) == [], about
        for pod in pod_templates(objects):
            for container in containers(pod):
                broken = [rule for rule in RULES if not test_charts.RULES[rule](pod, container)]
                assert not broken, f"{about}: {container['name']}: {broken}"
    assert rendered >= 3, "nearly everything was refused: the draws say little"
