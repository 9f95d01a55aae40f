// `thimble plan`: what a job would take on any number of ranks, without starting it.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <optional>

#include "core/io/file_system.h"
#include "core/ops/matmul_path.h"
#include "data/tokenizer.h"
#include "launcher/commands/checkpoint_room.h"
#include "launcher/commands/command.h"
#include "launcher/commands/job_arguments.h"
#include "launcher/commands/largest_fitting.h"
#include "launcher/commands/plan_rates.h"
#include "launcher/commands/run_outlook.h"
#include "launcher/plan/host_share.h"
#include "launcher/plan/job_plan.h"
#include "launcher/plan/job_setup.h"
#include "plan/time_plan.h"

namespace thimble {
namespace {

struct PlanArguments : JobArguments, MachineArguments {
  std::string maximum;
};

// The least time of a step that can be told from these rates.
double least_step_s(const TrainSpec& spec, const TrainPlan& plan, const KnownRates& known) {
  const StepTime time = predict_step(spec, plan, known.rates);
  const bool knows_comm = plan.batch.ranks > 1 && !known.bytes_from.empty();
  return std::max(knows_comm ? time.at_best_s() : time.compute_s, time.pass_disk_s) + time.disk_s +
         time.host_s;
}

void add_outlook(nlohmann::ordered_json& json, const RunOutlook& outlook, double step_s) {
  json["steps"] = outlook.steps;
  json["tokens"] = outlook.tokens();
  json["epochs"] =
      outlook.epochs ? nlohmann::ordered_json(*outlook.epochs) : nlohmann::ordered_json();
  json["run_s"] = static_cast<double>(outlook.steps) * step_s;
  json["data"] = {{"tokens", outlook.data.tokens()},
                  {"documents", outlook.data.documents()},
                  {"exact", outlook.data.exact()}};
}

// Where state is; on disk: what a step moves, and how much of the disk it takes.
nlohmann::ordered_json state_json(const TrainSpec& spec, const TrainPlan& plan,
                                  const KnownRates& known) {
  const OffloadedParts& found = plan.offload;
  const auto place = [](bool on_disk, bool on_host) {
    return on_disk ? "ssd" : on_host ? "host" : "memory";
  };
  nlohmann::ordered_json json{{"state", place(found.state, found.host_state)},
                              {"weights", place(found.weights, false)},
                              {"gradients", place(found.gradients, found.host_gradients)}};
  if (found.host_state) {
    json.update({{"gpu_share", plan.gpu_share},
                 {"to_gpu_bytes", plan.host.to_gpu},
                 {"to_host_bytes", plan.host.to_host}});
  }
  if (!plan.offload.state) return json;
  const StepTime time = predict_step(spec, plan, known.rates);
  json.update({{"slots", spec.offload.slots},
               {"cache_bytes", plan.cache_bytes},
               {"commit_steps", spec.offload.commit_steps},
               {"disk_bytes", spec.offload.slots * plan.checkpoint_bytes +
                                  plan.batch.ranks * plan.gradient_disk_bytes},
               {"read_bytes", plan.disk.read},
               {"written_bytes", plan.disk.written},
               {"update_s",
                time.disk_s > 0 ? nlohmann::ordered_json(time.disk_s) : nlohmann::ordered_json()}});
  return json;
}

nlohmann::ordered_json offload_json(const TrainSpec& spec, const TrainPlan& plan,
                                    const KnownRates& known) {
  nlohmann::ordered_json json = state_json(spec, plan, known);
  json["recompute"] = job::spelling(plan.recompute);
  json["recompute_share"] = plan.recompute_share;
  json["activations"] = job::spelling(plan.activations.place);
  if (plan.activations.on_disk()) {
    json["activation_disk_bytes"] = plan.activations.disk_bytes;
    json["activation_read_bytes"] = plan.activations.disk.read;
    json["activation_written_bytes"] = plan.activations.disk.written;
  }
  return json;
}

nlohmann::ordered_json plan_json(const TrainSpec& spec, const TrainPlan& plan,
                                 const KnownRates& known) {
  nlohmann::ordered_json phases = nlohmann::ordered_json::array();
  for (const MemoryPeak& p : plan.memory.phases) {
    nlohmann::ordered_json tags;
    for (std::size_t t = 0; t < kNumMemoryTags; ++t) {
      if (p.by_tag[t] > 0)
        tags[std::string(memory_tag_name(static_cast<MemoryTag>(t)))] = p.by_tag[t];
    }
    phases.push_back({{"phase", p.phase}, {"peak_bytes", p.total_bytes}, {"by_tag", tags}});
  }
  nlohmann::ordered_json traffic{{"reduce_bytes", plan.traffic.reduce_bytes},
                                 {"gather_bytes", plan.traffic.gather_bytes},
                                 {"collectives", plan.traffic.operations}};
  const StepTime time = predict_step(spec, plan, known.rates);
  const bool knows_comm = plan.batch.ranks == 1 || !known.bytes_from.empty();
  nlohmann::ordered_json groups = nlohmann::ordered_json::array();
  for (const GroupSummary& g : plan.groups) {
    groups.push_back({{"group", g.label},
                      {"name", g.name},
                      {"lr", g.lr},
                      {"tensors", g.tensors},
                      {"parameters", g.elements},
                      {"state_bytes", g.state_bytes}});
  }
  return {
      {"parameters", spec.model.num_parameters()},
      {"ranks", plan.batch.ranks},
      {"zero_stage", plan.zero_stage},
      {"sent_per_step", traffic},
      {"compute_s", time.compute_s},
      {"comm_s", knows_comm ? nlohmann::ordered_json(time.comm_s) : nlohmann::ordered_json()},
      {"micro_batch_size", plan.batch.micro_batch},
      {"gradient_accumulation_steps", plan.batch.accumulation_steps},
      {"accumulation_order", job::spelling(plan.by_layers ? job::AccumulationOrder::kLayers
                                                          : job::AccumulationOrder::kMicroBatches)},
      {"peak_bytes", plan.memory.peak_bytes()},
      {"arena_bytes", plan.memory.extent_bytes},
      {"resident_bytes", plan.memory.extent_bytes + overhead_bytes(spec.device)},
      {"host_bytes", plan.memory.host_bytes},
      {"budget_bytes", plan.budget.bytes},
      {"fits", plan.fits},
      {"budget_bound_by", plan.budget.bound_by},
      {"checkpoint_disk_bytes", plan.checkpoint_bytes},
      {"offload", offload_json(spec, plan, known)},
      {"export_disk_bytes", export_disk_bytes(spec)},
      {"optimizers", groups},
      {"phases", phases}};
}

// What a disk adds to a step, and how much is written in a day of steps.
std::string disk_text(const TrainSpec& spec, const TrainPlan& plan, const KnownRates& known) {
  if (!plan.offload.state && !plan.activations.on_disk()) return "";
  if (known.disk_from.empty())
    return "\n--disk-gb-per-s, what a node's disk reads and writes at once, tells the time that "
           "it takes";
  const StepTime time = predict_step(spec, plan, known.rates);
  const double passes_s = std::max(time.compute_s, time.pass_disk_s);
  const double step_s = passes_s + time.disk_s;
  const DiskTraffic &moved = plan.disk_by_passes, &activations = plan.activations.disk;
  const std::string passes =
      time.pass_disk_s == 0
          ? ""
          : fmt::format(
                "\nforward and backward passes: {} read and {} written, {:.3g} s, meanwhile",
                format_bytes(moved.read + activations.read),
                format_bytes(moved.written + activations.written), time.pass_disk_s);
  const std::string update =
      plan.offload.state ? fmt::format("\nupdate: {:.3g} s, after the matmuls", time.disk_s) : "";
  return passes + update +
         fmt::format(
             "\nat {:.3g} GB/s of the disk per rank ({}) a step is bounded by {}, {:.3g} TB "
             "are written per day",
             known.rates.disk_bytes_per_s / 1e9, known.disk_from,
             time.disk_s + time.pass_disk_s > time.compute_s ? "the disk" : "the matmuls",
             static_cast<double>(plan.disk.written + activations.written) * 86400 / step_s / 1e12);
}

// What a run takes of the disk beside checkpoints, and what is there, on one machine or as it is
// said.
std::string room_text(const job::JobConfig& job, const TrainSpec& spec, const TrainPlan& plan,
                      const RankPlace& place) {
  const std::int64_t wanted = disk_bytes(plan, plan.offload.state ? spec.offload.slots : 0);
  if (wanted == 0) return "";
  if (place.node_disk_bytes > 0) {
    const std::int64_t there = plan.budget.disk->bytes;
    if (there < wanted) spdlog::warn("too little room on the disks: `train` refuses the job there");
    return fmt::format("\non disk while it runs: {} beside checkpoints; {} are said to be free",
                       format_bytes(wanted), format_bytes(there));
  }
  if (place.ranks != place.ranks_on_node) return "";
  const std::vector<std::filesystem::path> paths = offload_paths(job.offload);
  std::filesystem::path where =
      existing_part(paths.empty() ? std::filesystem::path(job.output_dir) : paths.front());
  if (where.empty()) where = ".";
  if (!std::filesystem::is_directory(where))
    spdlog::warn("{} is no directory: `train` refuses it", where.string());
  const FileSystem system = file_system_of(where);
  if ((system.in_memory || system.on_network) && !job.offload.any_file_system)
    spdlog::warn("{} is on {}: `train` refuses it without offload.any_file_system = true",
                 where.string(), system.name);
  if (paths.size() < 2 && system.free_bytes < wanted)
    spdlog::warn("too little room on the disk: `train` refuses the job there");
  return fmt::format("\non disk while it runs: {} beside checkpoints; {} are free at {}",
                     format_bytes(wanted), format_bytes(system.free_bytes), where.string());
}

std::string time_text(const TrainSpec& spec, const TrainPlan& plan, const KnownRates& known) {
  const auto tokens = static_cast<double>(plan.batch.sequences * spec.engine.seq_len);
  const StepTime time = predict_step(spec, plan, known.rates);
  std::string text =
      fmt::format("time of a step: {:.3g} s of matmuls at {:.3g} TFLOP/s per rank ({})",
                  time.compute_s, known.rates.flops_per_s / 1e12, known.flops_from);
  if (plan.batch.ranks == 1)
    return text + fmt::format("; at most {:.4g} tokens/s", tokens / time.compute_s);
  if (known.bytes_from.empty())
    return text + "; --gb-per-s, what a rank can send to other nodes, tells the rest";
  return text + fmt::format(
                    ", {:.3g} s of communication at {:.3g} GB/s per rank ({}), most of it "
                    "meanwhile; {:.4g} to {:.4g} tokens/s",
                    time.comm_s, known.rates.bytes_per_s / 1e9, known.bytes_from,
                    tokens / time.at_worst_s(), tokens / time.at_best_s());
}

void print_maximum(const PlanArguments& arguments, const TrainSpec& spec, const job::JobConfig& job,
                   const RankPlace& place) {
  const std::int64_t value = largest_fitting(arguments.maximum, spec, job, place);
  if (arguments.json) {
    fmt::print("{}\n",
               nlohmann::ordered_json{{"key", arguments.maximum}, {"largest", value}}.dump());
    return;
  }
  const bool is_batch = arguments.maximum == "micro_batch_size";
  const bool all = value == (is_batch ? spec.sequences_per_step : spec.model.max_positions);
  fmt::print("largest {} that fits: {}{}\n", arguments.maximum, value,
             !all       ? ""
             : is_batch ? ", all sequences of a step"
                        : ", all positions of the model");
}

void run_plan(const PlanArguments& arguments) {
  const job::JobConfig job = load_job_arguments(arguments);
  apply_threads(job.threads);
  // Its workspace is planned; a path that this CPU lacks is planned as the one that it has.
  const std::optional<MatmulPath> path = job.training.matmul.value;
  if (path && has_matmul_path(*path)) set_matmul_path(*path);
  TrainSpec spec = make_spec(job);
  for (const std::string& note : spec.model_notes) spdlog::warn("{}", note);
  const auto tokenizer = open_tokenizer(spec.tokenizer, spec.model);
  spec.sample_prompt_tokens = sample_prompt_tokens(job, *tokenizer);
  // Rank 0 stands for all: no other owns more than a row of each matrix besides.
  const RankPlace place = place_of(arguments);
  if (!arguments.maximum.empty()) {
    print_maximum(arguments, spec, job, place);
    return;
  }
  const RunOutlook outlook = look_ahead(job, spec, *tokenizer);
  // Nothing is known of the memory of other machines: what does not fit is planned all the same.
  const bool knows_memory =
      arguments.ranks == 1 || job.memory.budget.value.has_value() || place.node_memory_bytes > 0;
  KnownRates known = rates_for_plan(arguments, spec, job);
  const IfTooLarge if_too_large = knows_memory ? IfTooLarge::kRefuse : IfTooLarge::kReport;
  TrainPlan plan = plan_job(spec, job, place, if_too_large, known.rates);
  if (plan.offload.host_state) {
    if (const auto share = measured_gpu_share(job, plan, known.rates.updates)) {
      spec.offload.gpu_share = *share;
      plan = plan_job(spec, job, place, if_too_large, known.rates);
    }
  }
  spec.engine.recompute = plan.recompute;
  spec.engine.recompute_share = plan.recompute_share;
  spec.engine.by_layers = plan.by_layers;
  add_rates(arguments, spec, job, plan, known);
  const double step_s = least_step_s(spec, plan, known);
  const CheckpointRoom room = checkpoint_room(job, outlook.steps, plan.checkpoint_bytes);
  if (arguments.json) {
    nlohmann::ordered_json json = plan_json(spec, plan, known);
    add_outlook(json, outlook, step_s);
    json["checkpoints_disk_bytes"] = room.bytes();
    fmt::print("{}\n", json.dump());
  } else {
    fmt::print("{}\n{}{}\n{}\n{}\n", plan_text(spec, plan), time_text(spec, plan, known),
               host_text(plan, known.rates.updates) + disk_text(spec, plan, known) +
                   room_text(job, spec, plan, place),
               place.node_disk_bytes > 0 ? "checkpoints: " + room.text() + " of the disks"
                                         : checkpoint_room_text(job, room),
               outlook_text(outlook, step_s));
  }
  if (const std::string warning = epochs_warning(outlook); !warning.empty())
    spdlog::warn("{}", warning);
  if (!plan.fits) spdlog::warn("a rank does not fit the memory of a machine like this one");
}

}  // namespace

void add_plan_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<PlanArguments>();
  CLI::App* plan = app.add_subcommand(
      "plan", "Say what memory, disk and time a job will take, without starting it");
  add_job_arguments(*plan, *arguments);
  plan->add_option("--max", arguments->maximum,
                   "Find the largest value that fits: seq_len or micro_batch_size")
      ->check(CLI::IsMember({"seq_len", "micro_batch_size"}));
  add_machine_arguments(*plan, *arguments);
  plan->add_flag("--json", arguments->json, "One JSON object");
  plan->footer(
      "Examples:\n"
      "  thimble plan job.toml\n"
      "  thimble plan job.toml --ranks 64 --ranks-per-node 8 --set parallelism.zero_stage=3\n"
      "  thimble plan job.toml --ranks 1024 --ranks-per-node 8 --tflops 400 --gb-per-s 25\n"
      "  thimble plan job.toml --tflops 4 --disk-gb-per-s 24 --node-memory 1TB --node-disk 30TB\n"
      "  thimble plan job.toml --max seq_len --set memory.budget=16GiB");
  plan->callback([arguments, &session] {
    session.start();
    run_plan(*arguments);
  });
}

}  // namespace thimble
