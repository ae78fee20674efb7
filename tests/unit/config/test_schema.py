"""Rules on single fields and between sections: each has its message here."""

import pytest
from pydantic import BaseModel, ValidationError

from rubric_rl.config.compose import compose
from rubric_rl.config.judge import LlmJudgeConfig
from rubric_rl.config.problems import known_keys
from rubric_rl.config.schema import Config
from rubric_rl.config.section import Section
from rubric_rl.errors import ConfigError

GPU = ("cluster=gpu_disaggregated",)
COLOCATED_GPU = ("cluster=gpu_colocated",)


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (
            ("cluster.weight_transport=nccl",),
            "cluster.weight_transport='nccl' needs GPUs but cluster.device='cpu': "
            "set cluster.weight_transport=object_store",
        ),
        (
            (*GPU, "rollout=transformers", "cluster.weight_transport=nccl"),
            "cluster.weight_transport='nccl' is vLLM's own but rollout.engine='transformers': "
            "set cluster.weight_transport=object_store",
        ),
        (
            (*COLOCATED_GPU, "cluster.weight_transport=nccl"),
            "cluster.weight_transport='nccl' can't join two processes on one GPU "
            "(cluster.placement='colocated'): set cluster.weight_transport=ipc",
        ),
        (
            (*GPU, "cluster.weight_transport=ipc"),
            "cluster.weight_transport='ipc' needs learner and engine on the same GPU "
            "(cluster.placement='disaggregated'): set cluster.weight_transport=nccl",
        ),
        (
            ("judge=likert", "rubrics=gated"),
            "rubrics.reward='gated' is made of criteria, and judge.llm.mode='likert' grades the "
            "answer as a whole: set rubrics.reward=weighted_share, which is then the grade",
        ),
        (
            ("judge=reward_model", "judge.reward_model.path=m", "refinement=offline"),
            "judge.reward_model uses no rubric, so there is nothing to refine: set refinement=none",
        ),
        (
            ("judge=openai", "judge.reward_model.path=m"),
            "judge.reward_model and judge.llm are both set, and a reward has one source: set "
            "judge=reward_model, which takes the LLM away, or judge.reward_model=null",
        ),
        (
            ("judge=likert", "judge.llm.logprobs=true"),
            "judge.llm.votes=1 and judge.llm.logprobs=True are about met and unmet, not about "
            "grades (judge.llm.mode='likert'): set votes=1 and logprobs=false",
        ),
        (
            (*GPU, "rollout=transformers", "rollout.tensor_parallel_size=2"),
            "rollout.tensor_parallel_size=2 needs rollout.engine=vllm",
        ),
        (
            ("rollout.tensor_parallel_size=2",),
            "rollout.tensor_parallel_size=2 needs GPUs: on cluster.device=cpu use "
            "rollout.num_workers",
        ),
        (
            ("refinement=offline", "data.path=mine.jsonl"),
            "refinement.proposer.bank='builtin:quickstart' has criteria for the packaged prompts, "
            "but data.path='mine.jsonl': set refinement=none, refinement=llm, or "
            "refinement.proposer.bank to criteria of yours",
        ),
        (
            ("learner.offload_optimizer=true",),
            "learner.offload_optimizer=true moves state off a GPU, but cluster.device='cpu'",
        ),
        (
            (*GPU, "learner.offload_parameters=true", "learner.zero_stage=3"),
            "learner.offload_parameters=true leaves optimizer state, which is larger, on the GPU: "
            "set learner.offload_optimizer=true too",
        ),
        (
            (*GPU, "learner.offload_parameters=true", "learner.offload_optimizer=true"),
            "learner.offload_parameters=true needs parameters in shards, but "
            "learner.zero_stage=2: set learner.zero_stage=3",
        ),
        (
            ("learner.reference=lora_base",),
            "learner.reference='lora_base' is the policy without its adapters, but there are none "
            "(learner.lora.rank=0): set learner.lora.rank, or learner.reference=copy",
        ),
        (
            ("learner.reference=none",),
            "learner.reference='none' leaves no KL to weigh, but algorithm.kl_coef=0.01: set "
            "algorithm.kl_coef=0, or learner.reference=auto",
        ),
        (
            (*COLOCATED_GPU, "learner.num_workers=8", "rollout.num_workers=2"),
            "learner.num_workers=8 and rollout.num_workers x rollout.tensor_parallel_size = "
            "2 x 1 = 2 must be equal with cluster.placement=colocated, because each GPU is shared "
            "by one learner rank and one engine: change one of them or set "
            "cluster.placement=disaggregated",
        ),
        (
            ("cluster.placement=colocated", "algorithm.max_staleness=1"),
            "algorithm.max_staleness=1 lets generation run beside the learner, but "
            "cluster.placement='colocated' makes them take turns: set algorithm.max_staleness=0 "
            "or cluster.placement=disaggregated",
        ),
        (
            ("algorithm.max_staleness=2", "algorithm.old_log_probs=learner"),
            "algorithm.max_staleness=2 trains on samples of an older policy, whose ratio needs "
            "algorithm.old_log_probs=rollout",
        ),
        (
            ("learner.micro_batch_tokens=100",),
            "learner.micro_batch_tokens=100 is smaller than one sequence "
            "(data.max_prompt_tokens + rollout.max_new_tokens = 192): raise it to at least that",
        ),
        (
            ("learner.packing=true", "learner.attn_implementation=flash_attention_2"),
            "learner.packing=true attends by sdpa, got "
            "learner.attn_implementation='flash_attention_2': set it to sdpa, or "
            "learner.packing=false",
        ),
        (
            ("algorithm.min_scored_samples=9",),
            "algorithm.min_scored_samples=9 is more than rollout.samples_per_prompt=8",
        ),
        (
            ("learner.num_workers=33",),
            "learner.num_workers=33 is more than the samples of one step "
            "(rollout.prompts_per_step x rollout.samples_per_prompt = 32)",
        ),
        (
            ("judge=openai", "judge.llm.base_url=localhost:8000/v1"),
            "judge.llm.base_url: it must be an http:// or https:// address, as in "
            "http://host:8000/v1",
        ),
        (
            ("judge=openai", "judge.llm.base_url=https://user:sk-secret@host/v1"),
            "judge.llm.base_url: it must not carry credentials or a query: put the key into an "
            "environment variable and its name into api_key_env",
        ),
        (
            ("judge=openai", "judge.llm.api_key_env=sk-secret"),
            "judge.llm.api_key_env: it must be the name of an environment variable, as in "
            "OPENAI_API_KEY, not the key itself",
        ),
    ],
)
def test_a_rule_that_is_broken_says_why_and_what_to_change(
    overrides: tuple[str, ...], expected: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        compose(overrides)
    assert str(caught.value) == expected


def test_broken_rules_are_listed_together() -> None:
    with pytest.raises(ConfigError) as caught:
        compose(["learner.offload_optimizer=true", "algorithm.min_scored_samples=9"])
    assert str(caught.value).startswith("2 problems in the configuration:\n  - learner.offload")


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "object_store"),
        (GPU, "nccl"),
        (COLOCATED_GPU, "ipc"),
        ((*GPU, "rollout=transformers"), "object_store"),
        ((*GPU, "cluster.weight_transport=object_store"), "object_store"),
    ],
)
def test_the_weight_transport_follows_device_placement_and_engine(
    overrides: tuple[str, ...], expected: str
) -> None:
    assert compose(overrides).weight_transport == expected


def test_the_engine_computes_in_the_learners_type_unless_told() -> None:
    assert compose(["learner.dtype=bfloat16"]).rollout_dtype == "bfloat16"
    assert compose(["learner.dtype=bfloat16", "rollout.dtype=float32"]).rollout_dtype == "float32"


def test_checkpoints_are_ranked_by_what_stays_comparable() -> None:
    assert compose(["refinement=none"]).best_metric == "eval/reward_mean"
    assert compose(["refinement=offline"]).best_metric == "eval/anchor_reward_mean"
    overrides = ["refinement=offline", "run.best_metric=eval/reward_mean"]
    assert compose(overrides).best_metric == "eval/reward_mean"
    with pytest.raises(ConfigError, match=r"refinement\.enabled=false: set run\.best_metric=auto"):
        compose(["refinement=none", "run.best_metric=eval/anchor_reward_mean"])


def test_checkpoints_are_written_beside_the_run_on_gpu_unless_told() -> None:
    assert not compose([]).async_checkpoints
    assert compose(GPU).async_checkpoints
    assert compose(["run.checkpoint_writing=async"]).async_checkpoints
    assert not compose([*GPU, "run.checkpoint_writing=sync"]).async_checkpoints


def test_the_longest_sequence_is_prompt_plus_completion() -> None:
    assert compose(["experiment=paper_health"]).max_sequence_tokens == 3584


def _sections(model: type[BaseModel]) -> list[type[BaseModel]]:
    below = [s for s in Section.__subclasses__() if s is not model]
    return [model, *below]


@pytest.mark.parametrize("section", _sections(Config), ids=lambda section: section.__name__)
def test_every_field_is_documented(section: type[BaseModel]) -> None:
    undocumented = [name for name, field in section.model_fields.items() if not field.description]
    assert undocumented == []
    assert section.__doc__


def test_known_keys_reach_optional_sections() -> None:
    keys = known_keys()
    assert keys[0] == "run.name"
    assert "judge.llm.max_asks" in keys
    assert "judge.llm" not in keys


def test_a_configuration_never_changes() -> None:
    with pytest.raises(ValueError, match="frozen"):
        compose([]).run.seed = 1


# ----------------------------------------------------------------------------
# The judge


def judge_problems(**llm: object) -> str:
    raw = compose(["experiment=quickstart_cpu", "run.dir=unused"]).model_dump()
    raw["judge"]["llm"] = {"base_url": "http://localhost:1/v1", "model": "judge"} | llm
    with pytest.raises(ValidationError) as caught:
        Config.model_validate(raw)
    return str(caught.value)


@pytest.mark.parametrize(
    ("llm", "said"),
    [
        ({"votes": 3}, "judge.llm.votes=3 with judge.llm.temperature=0"),
        ({"votes": 4, "votes_to_decide": 2, "temperature": 1.0}, "votes_to_decide=2 of"),
        ({"votes": 2, "votes_to_decide": 3, "temperature": 1.0}, "votes_to_decide=3 of"),
        ({"backend": "vllm"}, "judge.llm.base_url is set"),
        ({"backend": "vllm", "base_url": None, "hosted": {"tensor_parallel_size": 2}}, "num_engin"),
        ({"backend": "litellm", "extra_endpoints": [{"base_url": "http://b/v1"}]}, "of no use"),
        ({"extra_endpoints": [{"base_url": "http://me:pw@b/v1"}]}, "must not carry credentials"),
        ({"extra_endpoints": [{"base_url": "http://b", "api_key_env": "a b"}]}, "environment"),
    ],
)
def test_a_judge_that_can_not_be_is_refused_in_words(llm: dict[str, object], said: str) -> None:
    assert said in judge_problems(**llm)


def test_a_majority_is_more_than_half_of_the_votes() -> None:
    config = LlmJudgeConfig(base_url="http://a", model="m", votes=4, temperature=1.0)
    assert config.majority == 3
    assert config.model_copy(update={"votes": 5}).majority == 3
    assert config.model_copy(update={"votes_to_decide": 4}).majority == 4


def test_the_first_of_several_endpoints_is_the_base_url() -> None:
    further = [{"base_url": "http://b/v1", "api_key_env": "KEY_B"}]
    config = LlmJudgeConfig.model_validate(
        {"base_url": "http://a/v1", "model": "m", "extra_endpoints": further}
    )
    assert config.endpoint_names == ("http://a/v1", "http://b/v1")
    assert [endpoint.api_key_env for endpoint in config.endpoints] == [None, "KEY_B"]


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "copy"),
        (("learner.lora.rank=8",), "lora_base"),
        (("learner.lora.rank=8", "learner.reference=copy"), "copy"),
        (("learner.reference=actor",), "actor"),
        (("learner.reference=none", "algorithm.kl_coef=0"), "none"),
    ],
)
def test_adapters_make_the_policy_its_own_reference(
    overrides: tuple[str, ...], expected: str
) -> None:
    assert compose(list(overrides)).learner.resolved_reference == expected


def test_adapted_layers_are_named_or_all_of_them() -> None:
    learner = compose(
        ["learner.lora.rank=8", "learner.lora.target_modules=[q_proj,v_proj]"]
    ).learner
    assert learner.lora.target_modules == ("q_proj", "v_proj")
    assert compose(["learner.lora.rank=8"]).learner.lora.target_modules == "all-linear"
