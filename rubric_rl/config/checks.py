"""Rules that tie sections of the configuration together.

A rule of one field is on the field. A rule here yields one sentence for each
problem: what was received, why it can't be, what to change. All are collected,
so that one attempt shows everything that is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from rubric_rl.config.gold import gold_problems
from rubric_rl.config.judge_checks import JUDGE_RULES

if TYPE_CHECKING:  # the schema imports this module
    from rubric_rl.config.schema import Config


def cross_section_problems(config: Config) -> list[str]:
    """Every sentence of every rule, in the order of the rules."""
    return [problem for rule in _RULES for problem in rule(config)]


def _transport(config: Config) -> Iterator[str]:
    transport = config.weight_transport
    colocated = config.cluster.placement == "colocated"
    if transport == "object_store":
        return
    if config.cluster.device == "cpu":
        yield (
            f"cluster.weight_transport={transport!r} needs GPUs but cluster.device='cpu': "
            "set cluster.weight_transport=object_store"
        )
    elif config.rollout.engine == "transformers":
        yield (
            f"cluster.weight_transport={transport!r} is vLLM's own but "
            "rollout.engine='transformers': set cluster.weight_transport=object_store"
        )
    elif transport == "nccl" and colocated:
        yield (
            "cluster.weight_transport='nccl' can't join two processes on one GPU "
            "(cluster.placement='colocated'): set cluster.weight_transport=ipc"
        )
    elif transport == "ipc" and not colocated:
        yield (
            "cluster.weight_transport='ipc' needs learner and engine on the same GPU "
            "(cluster.placement='disaggregated'): set cluster.weight_transport=nccl"
        )


def _tensor_parallel(config: Config) -> Iterator[str]:
    size = config.rollout.tensor_parallel_size
    if size == 1:
        return
    if config.rollout.engine == "transformers":
        yield f"rollout.tensor_parallel_size={size} needs rollout.engine=vllm"
    if config.cluster.device == "cpu":
        yield (
            f"rollout.tensor_parallel_size={size} needs GPUs: "
            "on cluster.device=cpu use rollout.num_workers"
        )


def _offload(config: Config) -> Iterator[str]:
    learner = config.learner
    if config.cluster.device == "cpu" and learner.offload_optimizer:
        yield "learner.offload_optimizer=true moves state off a GPU, but cluster.device='cpu'"
    if config.cluster.device == "cpu" and learner.offload_parameters:
        yield "learner.offload_parameters=true moves weights off a GPU, but cluster.device='cpu'"
    if learner.offload_parameters and not learner.offload_optimizer:
        yield (
            "learner.offload_parameters=true leaves optimizer state, which is larger, on the GPU: "
            "set learner.offload_optimizer=true too"
        )
    if learner.offload_parameters and learner.zero_stage < 3:
        yield (
            "learner.offload_parameters=true needs parameters in shards, but "
            f"learner.zero_stage={learner.zero_stage}: set learner.zero_stage=3"
        )


def _reference(config: Config) -> Iterator[str]:
    reference, lora = config.learner.reference, config.learner.lora
    if reference == "lora_base" and not lora.enabled:
        yield (
            "learner.reference='lora_base' is the policy without its adapters, but there are none "
            "(learner.lora.rank=0): set learner.lora.rank, or learner.reference=copy"
        )
    if reference == "none" and config.algorithm.kl_coef > 0:
        yield (
            "learner.reference='none' leaves no KL to weigh, but "
            f"algorithm.kl_coef={config.algorithm.kl_coef}: set algorithm.kl_coef=0, or "
            "learner.reference=auto"
        )


def _shared_gpus(config: Config) -> Iterator[str]:
    if config.cluster.placement != "colocated" or config.cluster.device != "gpu":
        return
    ranks, engines = config.learner.num_workers, config.rollout.num_workers
    size = config.rollout.tensor_parallel_size
    if ranks != engines * size:
        yield (
            f"learner.num_workers={ranks} and rollout.num_workers x "
            f"rollout.tensor_parallel_size = {engines} x {size} = {engines * size} must be equal "
            "with cluster.placement=colocated, because each GPU is shared by one learner rank "
            "and one engine: change one of them or set cluster.placement=disaggregated"
        )


def _staleness(config: Config) -> Iterator[str]:
    staleness = config.algorithm.max_staleness
    if staleness == 0:
        return
    if config.cluster.placement == "colocated":
        yield (
            f"algorithm.max_staleness={staleness} lets generation run beside the learner, but "
            "cluster.placement='colocated' makes them take turns: set algorithm.max_staleness=0 "
            "or cluster.placement=disaggregated"
        )
    algorithm = config.algorithm
    if algorithm.old_log_probs == "learner" and algorithm.importance_correction == "off":
        yield (
            f"algorithm.max_staleness={staleness} trains on samples of an older policy, whose "
            "ratio needs algorithm.old_log_probs=rollout"
        )


def _batch(config: Config) -> Iterator[str]:
    tokens, longest = config.learner.micro_batch_tokens, config.max_sequence_tokens
    if tokens < longest:
        yield (
            f"learner.micro_batch_tokens={tokens} is smaller than one sequence "
            f"(data.max_prompt_tokens + rollout.max_new_tokens = {longest}): "
            "raise it to at least that"
        )
    attention = config.learner.attn_implementation
    if config.learner.packing and attention != "sdpa":
        yield (
            f"learner.packing=true attends by sdpa, got learner.attn_implementation={attention!r}: "
            "set it to sdpa, or learner.packing=false"
        )
    least, per_prompt = config.algorithm.min_scored_samples, config.rollout.samples_per_prompt
    if least > per_prompt:
        yield (
            f"algorithm.min_scored_samples={least} is more than "
            f"rollout.samples_per_prompt={per_prompt}"
        )
    ranks, samples = config.learner.num_workers, config.rollout.prompts_per_step * per_prompt
    if samples < ranks:
        yield (
            f"learner.num_workers={ranks} is more than the samples of one step "
            f"(rollout.prompts_per_step x rollout.samples_per_prompt = {samples})"
        )


def _policy_loss(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    loss, aggregation = algorithm.policy_loss, algorithm.loss_aggregation
    if loss == "gspo" and aggregation != "sequence":
        yield (
            "algorithm.policy_loss='gspo' weighs samples alike, but "
            f"algorithm.loss_aggregation={aggregation!r}: set algorithm.loss_aggregation=sequence"
        )
    if loss in ("cispo", "rft") and algorithm.dual_clip is not None:
        yield (
            f"algorithm.dual_clip={algorithm.dual_clip} is of no use with "
            f"algorithm.policy_loss={loss!r}: set algorithm.dual_clip=null"
        )
    if aggregation == "constant" and algorithm.constant_length_tokens is None:
        yield (
            "algorithm.loss_aggregation='constant' needs algorithm.constant_length_tokens: set it "
            f"to the longest completion (rollout.max_new_tokens={config.rollout.max_new_tokens})"
        )


def _importance_correction(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    correction, loss = algorithm.importance_correction, algorithm.policy_loss
    if algorithm.importance_min > algorithm.importance_max:
        yield (
            f"algorithm.importance_min={algorithm.importance_min} is more than "
            f"algorithm.importance_max={algorithm.importance_max}"
        )
    if correction == "off":
        return
    if loss != "ppo":
        yield (
            f"algorithm.importance_correction={correction!r} is PPO's but "
            f"algorithm.policy_loss={loss!r}: set algorithm.importance_correction=off"
        )
    elif algorithm.old_log_probs == "rollout":
        yield (
            f"algorithm.importance_correction={correction!r} has nothing to correct with "
            "algorithm.old_log_probs='rollout', whose ratio is against the engine already: set "
            "algorithm.old_log_probs=learner"
        )


def _kl_in_reward(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    if algorithm.kl_in == "loss":
        return
    if algorithm.kl_estimator != "k1":
        yield (
            f"algorithm.kl_estimator={algorithm.kl_estimator!r} in the reward has no pull near the "
            "reference: set algorithm.kl_estimator=k1, or algorithm.kl_in=loss"
        )
    if algorithm.policy_loss == "rft":
        yield (
            "algorithm.kl_in='reward' needs advantages, which algorithm.policy_loss='rft' does "
            "without: set algorithm.kl_in=loss"
        )


def _rejection_tuning(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    is_rft, picks_best = algorithm.policy_loss == "rft", algorithm.advantage == "best_of_group"
    if is_rft and not picks_best:
        yield (
            "algorithm.policy_loss='rft' trains on the best of each group: set "
            f"algorithm.advantage=best_of_group (it is {algorithm.advantage!r})"
        )
    if picks_best and not is_rft:
        yield (
            "algorithm.advantage='best_of_group' picks targets without a baseline: set "
            f"algorithm.policy_loss=rft (it is {algorithm.policy_loss!r})"
        )
    if is_rft and algorithm.overlong == "mask":
        yield (
            "algorithm.overlong='mask' could mask a group's only target "
            "(algorithm.policy_loss='rft'): set algorithm.overlong=penalty, which ranks it lower"
        )


def _group_comparison(config: Config) -> Iterator[str]:
    algorithm = config.algorithm
    if algorithm.drop_zero_variance and algorithm.advantage == "reinforce_pp":
        yield (
            "algorithm.drop_zero_variance=true drops groups that algorithm.advantage="
            "'reinforce_pp' learns from, because it compares them with other groups: set "
            "algorithm.drop_zero_variance=false, or algorithm.advantage=reinforce_pp_baseline"
        )
    if algorithm.advantage != "gdpo":
        return
    if config.rubrics.reward == "gated":
        yield (
            "algorithm.advantage='gdpo' compares criterion by criterion and sees no gate, but "
            "rubrics.reward='gated': set rubrics.reward=weighted_share"
        )
    if algorithm.overlong == "penalty":
        yield (
            "algorithm.overlong='penalty' changes rewards, which algorithm.advantage='gdpo' does "
            "not read: set algorithm.overlong=mask"
        )


def _overlong(config: Config) -> Iterator[str]:
    algorithm, longest = config.algorithm, config.rollout.max_new_tokens
    buffer = algorithm.overlong_buffer_tokens
    if algorithm.overlong != "penalty":
        return
    if buffer is not None and buffer > longest:
        yield (
            f"algorithm.overlong_buffer_tokens={buffer} is more than "
            f"rollout.max_new_tokens={longest}"
        )


def _packaged_bank(config: Config) -> Iterator[str]:
    """Its criteria are for the packaged prompts, and would become a part of anyone's rubrics."""
    refinement, path = config.refinement, config.data.path
    bank = refinement.proposer.bank
    uses_bank = refinement.enabled and refinement.proposer.kind == "offline"
    if uses_bank and str(bank).startswith("builtin:") and path != bank:
        yield (
            f"refinement.proposer.bank={bank!r} has criteria for the packaged prompts, but "
            f"data.path={path!r}: set refinement=none, refinement=llm, or "
            "refinement.proposer.bank to criteria of yours"
        )


def _best_metric(config: Config) -> Iterator[str]:
    metric = config.run.best_metric
    if metric == "eval/anchor_reward_mean" and not config.refinement.enabled:
        yield (
            f"run.best_metric={metric!r} is measured when rubrics are refined, but "
            "refinement.enabled=false: set run.best_metric=auto"
        )


_RULES: tuple[Callable[[Config], Iterator[str]], ...] = (
    _transport,
    _tensor_parallel,
    _offload,
    _reference,
    _shared_gpus,
    _staleness,
    _batch,
    _policy_loss,
    _importance_correction,
    _kl_in_reward,
    _rejection_tuning,
    _group_comparison,
    _overlong,
    _packaged_bank,
    _best_metric,
    gold_problems,
    *JUDGE_RULES,
)
