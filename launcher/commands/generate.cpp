// `thimble generate`: continues a prompt.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/io/file.h"
#include "core/ops/op_observer.h"
#include "data/file_kind.h"
#include "data/utf8.h"
#include "launcher/commands/command.h"
#include "launcher/commands/generation.h"
#include "launcher/run/machine.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/exported_template.h"
#include "launcher/trainer/loaded_model.h"
#include "launcher/trainer/samples.h"
#include "models/decoder.h"
#include "models/generation_config.h"

namespace thimble {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::int64_t kPromptLimitBytes = 64 * kMiB;

struct GenerateArguments {
  std::string model, prompt, prompt_file, dtype = "auto";
  std::vector<std::string> adapters, stop;
  std::int64_t max_new_tokens = 200;
  // Options that are not given follow the model's generation_config.json.
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
  std::uint64_t seed = 0;
  std::string special_tokens = "parse";
  bool any_id = false, json = false;
  std::shared_ptr<KvArguments> kv = std::make_shared<KvArguments>();
};

// Sampling as transformers does it with this configuration, unless an option says otherwise.
SamplingOptions sampling_options(const GenerateArguments& a, const GenerationConfig& config,
                                 const LoadedModel& loaded) {
  constexpr std::int64_t kUsualTopK = 50;  // of transformers where the file has none
  const bool samples = config.do_sample || a.temperature;
  SamplingOptions options{.seed = a.seed};
  options.repetition_penalty = a.repetition_penalty.value_or(config.repetition_penalty.value_or(1));
  if (samples) {
    options.temperature = a.temperature.value_or(config.temperature.value_or(1));
    options.top_p = a.top_p.value_or(config.do_sample ? config.top_p.value_or(1) : 1);
    options.top_k = a.top_k.value_or(config.do_sample ? config.top_k.value_or(kUsualTopK) : 0);
  } else if (a.top_p || a.top_k) {
    spdlog::warn("--top-p and --top-k need --temperature: the likeliest token is taken");
  }
  if (!a.any_id)
    options.never = undefined_ids(*loaded.tokenizer, loaded.model->config().vocab_size);
  if (options.temperature > 0) {
    spdlog::info("sampling: temperature {}, top-p {}, top-k {}, repetition penalty {}, seed {}",
                 options.temperature, options.top_p, options.top_k, options.repetition_penalty,
                 options.seed);
  }
  if (!options.never.empty())
    spdlog::info("{} ids of the model have no token and are not drawn", options.never.size());
  return options;
}

// The prompts of a file: of JSON lines each line's "prompt" (or "text"), of any other file its
// text.
std::vector<std::string> file_prompts(const std::string& path) {
  const std::string file = read_text_file(path, kPromptLimitBytes);
  check_is_text(path, file);
  const std::string_view text = without_byte_order_mark(file);
  if (!path.ends_with(".jsonl")) return {std::string(text)};
  std::vector<std::string> prompts;
  std::istringstream lines{std::string(text)};
  std::string line;
  for (std::int64_t number = 1; std::getline(lines, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    const auto json = Json::parse(line, nullptr, false);
    const auto found = json.is_object() ? json.find("prompt") : json.end();
    const auto field = json.is_object() && found == json.end() ? json.find("text") : found;
    if (!json.is_object() || field == json.end() || !field->is_string())
      throw_user("{} line {}: allowed objects with a text \"prompt\"", path, number);
    prompts.push_back(field->get<std::string>());
  }
  if (prompts.empty()) throw_user("{}: no prompts", path);
  return prompts;
}

Request make_request(const GenerateArguments& a, const std::string& prompt,
                     const LoadedModel& loaded, bool endless) {
  Request r{.prompt = prompt,
            .ids = sample_prompt_ids(*loaded.tokenizer, prompt, a.special_tokens == "parse")};
  const auto count = static_cast<std::int64_t>(r.ids.size());
  const std::int64_t longest = loaded.model->config().max_positions;
  if (count >= longest && !endless) {
    throw_user("the prompt has {} tokens and the model {} positions; shorten the prompt", count,
               longest);
  }
  r.wanted = count + a.max_new_tokens;
  r.capacity = endless ? r.wanted : std::min(r.wanted, longest);
  return r;
}

std::vector<Request> make_requests(const GenerateArguments& a,
                                   const std::vector<std::string>& prompts,
                                   const LoadedModel& loaded, const KvCaches& caches) {
  std::vector<Request> requests;
  for (const std::string& prompt : prompts)
    requests.push_back(make_request(a, prompt, loaded, caches.is_endless()));
  return requests;
}

std::vector<std::int64_t> capacities_of(const std::vector<Request>& requests) {
  std::vector<std::int64_t> out;
  for (const Request& r : requests) out.push_back(r.capacity);
  return out;
}

void tell_sizes(const std::vector<Request>& requests, const KvCaches& caches,
                const LoadedModel& loaded) {
  std::size_t tokens = 0;
  bool shortened = false;
  for (const Request& r : requests) {
    tokens += r.ids.size();
    shortened |= r.wanted > r.capacity;
  }
  const std::int64_t capacity = requests[0].capacity;
  spdlog::info(
      "{} prompt tokens{}; {}, {} would fit in free memory", tokens,
      requests.size() > 1 ? fmt::format(" of {} prompts", requests.size()) : "",
      caches.describe(capacities_of(requests)),
      memory_limit().usable_bytes / std::max<std::int64_t>(1, caches.bytes(capacity) / capacity));
  if (shortened)
    spdlog::warn("stopping at the model's {} positions", loaded.model->config().max_positions);
}

void print_results(const GenerateArguments& a, const std::vector<Request>& requests,
                   const std::vector<Generated>& results, double seconds) {
  for (std::size_t i = 0; i < results.size(); ++i) {
    const Generated& out = results[i];
    if (a.json) {
      const Json json{{"prompt", requests[i].prompt},
                      {"text", out.text},
                      {"prompt_tokens", requests[i].ids.size()},
                      {"new_tokens", out.ids.size()},
                      {"token_ids", out.ids},
                      {"finish_reason", out.reason},
                      {"seconds", seconds}};
      fmt::print("{}\n", json.dump(-1, ' ', false, Json::error_handler_t::replace));
    } else if (results.size() > 1) {
      fmt::print("{}[{}]\n{}{}\n", i > 0 ? "\n" : "", i + 1, requests[i].prompt, out.text);
    } else if (!a.stop.empty()) {
      fmt::print("{}{}\n", requests[i].prompt, out.text);
    }
  }
}

void run_generate(const GenerateArguments& a) {
  if (!a.prompt.empty() && !a.prompt_file.empty())
    throw_user("--prompt and --prompt-file: give one of them");
  const std::vector<std::string> prompts =
      a.prompt_file.empty() ? std::vector<std::string>{a.prompt} : file_prompts(a.prompt_file);
  LoadedModel loaded = load_model({a.model, a.adapters}, a.dtype, [&](LoadedModel& planned) {
    const KvCaches caches(*a.kv, planned);
    const std::vector<Request> requests = make_requests(a, prompts, planned, caches);
    caches.check_fits(capacities_of(requests), caches.limit_bytes(memory_limit().usable_bytes));
    Generation(planned, caches, requests).plan();
  });
  const KvCaches caches(*a.kv, loaded);
  const std::vector<Request> requests = make_requests(a, prompts, loaded, caches);
  tell_sizes(requests, caches, loaded);
  install_stop_handlers();
  const GenerationConfig config = load_generation_config(generation_directory(loaded));
  GenerationSettings settings{
      .sampling = sampling_options(a, config, loaded),
      .stop = a.stop,
      .eos = config.eos_ids.empty() ? loaded.model->config().eos_ids : config.eos_ids,
      .max_new_tokens = a.max_new_tokens};
  if (!a.json && a.stop.empty() && requests.size() == 1) {
    fmt::print("{}", requests[0].prompt);
    settings.live = [](std::size_t, const std::string& piece, bool done) {
      fmt::print("{}{}", piece, done ? "\n" : "");
      std::fflush(stdout);
    };
  }
  Generation generation(loaded, caches, requests);
  const std::int64_t start = steady_now_ns();
  const std::vector<Generated> results = generation.run(settings);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  print_results(a, requests, results, seconds);
  std::size_t tokens = 0;
  for (const Generated& out : results) tokens += out.ids.size();
  spdlog::info("{} tokens in {:.1f} s", tokens, seconds);
  if (!caches.is_dense())
    spdlog::info("at most {} of the cache were in use", format_bytes(generation.peak_bytes()));
}

}  // namespace

void add_generate_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<GenerateArguments>();
  CLI::App* generate = app.add_subcommand("generate", "Continue a prompt");
  generate->add_option("--model", a->model,
                       "Hugging Face directory, run, or adapter whose base model is there");
  generate->add_option(
      "--adapter", a->adapters,
      "Adapter (PEFT's directory, or run) to merge into the model as it is loaded; "
      "DIR=WEIGHT, several: LoRAs, added up (repeatable)");
  generate->add_option("--prompt", a->prompt, "Text to continue (default: none)");
  generate->add_option(
      "--prompt-file", a->prompt_file,
      "File with the text to continue; of .jsonl every line's \"prompt\", all at once");
  generate->add_option("--max-new-tokens", a->max_new_tokens, "Tokens to make at most")
      ->check(CLI::PositiveNumber);
  generate
      ->add_option("--temperature", a->temperature,
                   "0: greedy (default: the model's generation_config.json, else 0)")
      ->check(CLI::NonNegativeNumber);
  generate
      ->add_option("--top-k", a->top_k,
                   "Only the k likeliest tokens; 0: all (default: as --temperature)")
      ->check(CLI::NonNegativeNumber);
  generate
      ->add_option("--top-p", a->top_p,
                   "Only the likeliest tokens that make up this share (default: as --temperature)")
      ->check(CLI::Range(1e-6, 1.0));
  generate
      ->add_option("--repetition-penalty", a->repetition_penalty,
                   "1: none (default: the model's generation_config.json, else 1)")
      ->check(CLI::PositiveNumber);
  generate->add_option("--seed", a->seed, "Of the draws");
  generate->add_flag("--any-id", a->any_id,
                     "Also draw ids that the tokenizer has no token for; they print as nothing");
  add_special_tokens_option(*generate, a->special_tokens);
  generate->add_option("--stop", a->stop, "End before this text (repeatable)");
  generate->add_option("--dtype", a->dtype, "auto, bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  generate->add_flag("--json", a->json, "One JSON object per prompt");
  add_kv_options(*generate, a->kv);
  generate->footer(
      "Examples:\n"
      "  thimble generate --model runs/demo/model --prompt \"In the beginning\"\n"
      "  thimble generate --model DIR --adapter runs/lora --prompt \"In the beginning\"\n"
      "  thimble generate --model DIR --prompt-file p.txt --temperature 0.8 --top-p 0.95 --seed 1\n"
      "  thimble generate --model DIR --prompt-file long.txt --kv-method snapkv --kv-budget 0.25\n"
      "  thimble generate --model DIR --prompt-file long.txt --compressor runs/locret");
  generate->callback([a, &session] {
    session.start();
    run_generate(*a);
  });
}

}  // namespace thimble
