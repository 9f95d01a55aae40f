// `thimble generate`: continues a prompt.
#include <fmt/core.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "core/io/file.h"
#include "core/ops/op_observer.h"
#include "data/file_kind.h"
#include "data/utf8.h"
#include "launcher/commands/command.h"
#include "launcher/run/machine.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/loaded_model.h"
#include "launcher/trainer/samples.h"
#include "models/decoder.h"
#include "models/generation_config.h"

namespace thimble {
namespace {

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

void check_finite(const std::vector<float>& logits, const LoadedModel& loaded) {
  for (const float l : logits) {
    if (!std::isfinite(l)) throw_not_finite(loaded, "logits");
  }
}

struct Generated {
  std::string text;
  std::vector<std::int32_t> ids;
  std::string reason = "length";
};

// Where the first of the stop texts begins, or npos.
std::size_t find_stop(const std::string& text, const std::vector<std::string>& stops) {
  std::size_t first = std::string::npos;
  for (const std::string& s : stops) first = std::min(first, text.find(s));
  return first;
}

Generated decode(const GenerateArguments& a, const LoadedModel& loaded, Decoder& decoder,
                 std::vector<std::int32_t> history) {
  const Tokenizer& tokenizer = *loaded.tokenizer;
  const GenerationConfig config = load_generation_config(loaded.directory);
  const SamplingOptions sampling = sampling_options(a, config, loaded);
  const std::vector<std::int32_t>& eos =
      config.eos_ids.empty() ? loaded.model->config().eos_ids : config.eos_ids;
  StreamDecoder stream(tokenizer, a.prompt.empty() && a.prompt_file.empty());
  Generated out;
  std::vector<float> logits = decoder.feed(history);
  const bool live = !a.json && a.stop.empty();
  while (static_cast<std::int64_t>(out.ids.size()) < a.max_new_tokens) {
    check_finite(logits, loaded);
    const std::int32_t id =
        sample_token(logits, sampling, static_cast<std::int64_t>(out.ids.size()), history);
    if (id == tokenizer.eos_id() || std::find(eos.begin(), eos.end(), id) != eos.end()) {
      out.reason = "eos";
      break;
    }
    out.ids.push_back(id);
    history.push_back(id);
    const std::string piece = stream.push(id);
    out.text += piece;
    if (live) {
      fmt::print("{}", piece);
      std::fflush(stdout);
    }
    const std::size_t stop = find_stop(out.text, a.stop);
    if (stop != std::string::npos) {
      out.text.resize(stop);
      out.reason = "stop";
      break;
    }
    if (decoder.length() == decoder.capacity() || stop_requested()) break;
    logits = decoder.feed(std::span(&id, 1));
  }
  const std::string rest = out.reason == "stop" ? "" : stream.finish();
  out.text += rest;
  if (live) fmt::print("{}\n", rest);
  return out;
}

// A prompt, and how many positions it and its continuation take.
struct Request {
  std::vector<std::int32_t> ids;
  std::int64_t wanted = 0, capacity = 0;
};

Request make_request(const GenerateArguments& a, const std::string& prompt,
                     const LoadedModel& loaded) {
  Request r{.ids = sample_prompt_ids(*loaded.tokenizer, prompt, a.special_tokens == "parse")};
  const auto count = static_cast<std::int64_t>(r.ids.size());
  const std::int64_t longest = loaded.model->config().max_positions;
  if (count >= longest) {
    throw_user("the prompt has {} tokens and the model {} positions; shorten the prompt", count,
               longest);
  }
  r.wanted = count + a.max_new_tokens;
  r.capacity = std::min(r.wanted, longest);
  return r;
}

void run_generate(const GenerateArguments& a) {
  if (!a.prompt.empty() && !a.prompt_file.empty())
    throw_user("--prompt and --prompt-file: give one of them");
  std::string prompt = a.prompt;
  if (!a.prompt_file.empty()) {
    const std::string file = read_text_file(a.prompt_file, kPromptLimitBytes);
    check_is_text(a.prompt_file, file);
    prompt = without_byte_order_mark(file);
  }
  const LoadedModel loaded = load_model({a.model, a.adapters}, a.dtype, [&](LoadedModel& planned) {
    const Request request = make_request(a, prompt, planned);
    Decoder decoder(*planned.arena, *planned.model, *planned.store, planned.dtype,
                    request.capacity);
    static_cast<void>(decoder.feed(request.ids));
    // Attention needs most memory at the last position; many at once come there sooner.
    const auto left = static_cast<std::size_t>(decoder.capacity() - decoder.length());
    if (left > 1) static_cast<void>(decoder.feed(std::vector<std::int32_t>(left - 1)));
    if (left > 0) static_cast<void>(decoder.feed(std::vector<std::int32_t>(1)));
  });
  const auto [ids, wanted, capacity] = make_request(a, prompt, loaded);
  const std::int64_t longest = loaded.model->config().max_positions;
  const std::int64_t per_position =
      DenseKvCache::bytes_per_position(loaded.model->config(), loaded.dtype);
  spdlog::info("{} prompt tokens; key-value cache {} for {} positions, {} would fit in free memory",
               ids.size(), format_bytes(per_position * capacity), capacity,
               memory_limit().usable_bytes / per_position);
  if (wanted > longest) spdlog::warn("stopping at the model's {} positions", longest);
  install_stop_handlers();
  Decoder decoder(*loaded.arena, *loaded.model, *loaded.store, loaded.dtype, capacity);
  const std::int64_t start = steady_now_ns();
  if (!a.json && a.stop.empty()) fmt::print("{}", prompt);
  const Generated out = decode(a, loaded, decoder, ids);
  const double seconds = static_cast<double>(steady_now_ns() - start) * 1e-9;
  if (a.json) {
    const nlohmann::ordered_json json{{"prompt", prompt},
                                      {"text", out.text},
                                      {"prompt_tokens", ids.size()},
                                      {"new_tokens", out.ids.size()},
                                      {"token_ids", out.ids},
                                      {"finish_reason", out.reason},
                                      {"seconds", seconds}};
    fmt::print("{}\n", json.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
  } else if (!a.stop.empty()) {
    fmt::print("{}{}\n", prompt, out.text);
  }
  spdlog::info("{} tokens in {:.1f} s", out.ids.size(), seconds);
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
  generate->add_option("--prompt-file", a->prompt_file, "File with the text to continue");
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
  generate->add_flag("--json", a->json, "One JSON object");
  generate->footer(
      "Examples:\n"
      "  thimble generate --model runs/demo/model --prompt \"In the beginning\"\n"
      "  thimble generate --model DIR --adapter runs/lora --prompt \"In the beginning\"\n"
      "  thimble generate --model DIR --prompt-file p.txt --temperature 0.8 --top-p 0.95 --seed 1");
  generate->callback([a, &session] {
    session.start();
    run_generate(*a);
  });
}

}  // namespace thimble
