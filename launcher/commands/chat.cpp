// `thimble chat`: talks with a model in the terminal.
#include <fmt/core.h>
#include <signal.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <optional>

#include "data/chat_tokens.h"
#include "launcher/commands/chat_session.h"
#include "launcher/commands/command.h"
#include "launcher/run/machine.h"
#include "launcher/run/signals.h"
#include "launcher/trainer/exported_template.h"
#include "launcher/trainer/samples.h"
#include "models/generation_config.h"

namespace thimble {
namespace {

struct ChatArguments {
  std::vector<std::string> adapters;
  std::string model, system, dtype = "auto", chat_template = "tokenizer";
  std::int64_t context = 0;
  std::int64_t max_new_tokens = 512;
  std::optional<double> temperature, top_p, repetition_penalty;
  std::optional<std::int64_t> top_k;
  std::uint64_t seed = 0;
};

constexpr std::int64_t kUsualContext = 4096;

volatile sig_atomic_t interrupted = 0;

// Ctrl-C ends an answer, and at the prompt the chat.
void install_interrupt() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = 1; };
  sigaction(SIGINT, &action, nullptr);
}

// The next line without its end; nothing at the end of the input or after Ctrl-C.
std::optional<std::string> read_line() {
  static std::string pending;
  for (;;) {
    const std::size_t end = pending.find('\n');
    if (end != std::string::npos) {
      std::string line = pending.substr(0, end);
      pending.erase(0, end + 1);
      if (line.ends_with('\r')) line.pop_back();
      return line;
    }
    char buffer[4096];
    const ssize_t got = ::read(STDIN_FILENO, buffer, sizeof buffer);
    if (got <= 0) {
      if (got < 0 && errno == EINTR && interrupted == 0 && !stop_requested()) continue;
      if (pending.empty()) return std::nullopt;
      return std::exchange(pending, std::string());
    }
    pending.append(buffer, static_cast<std::size_t>(got));
  }
}

// A message: a line, and the next ones as long as each ends in a backslash.
std::optional<std::string> read_message(bool terminal) {
  std::string text;
  for (bool first = true;; first = false) {
    if (terminal) {
      fmt::print("{}", first ? "> " : "... ");
      std::fflush(stdout);
    }
    std::optional<std::string> line = read_line();
    if (!line) return first ? std::nullopt : std::optional<std::string>(text);
    text += *line;
    if (!text.ends_with('\\')) return text;
    text.back() = '\n';
  }
}

SamplingOptions sampling_of(const ChatArguments& a, const GenerationConfig& config,
                            const LoadedModel& loaded) {
  SamplingOptions options{.seed = a.seed};
  const bool samples = config.do_sample;
  options.temperature = a.temperature.value_or(samples ? config.temperature.value_or(1) : 0);
  options.top_p = a.top_p.value_or(samples ? config.top_p.value_or(1) : 1);
  options.top_k = a.top_k.value_or(samples ? config.top_k.value_or(50) : 0);
  options.repetition_penalty = a.repetition_penalty.value_or(config.repetition_penalty.value_or(1));
  options.never = undefined_ids(*loaded.tokenizer, loaded.model->config().vocab_size);
  return options;
}

ChatSession::Settings settings_of(const ChatArguments& a, const LoadedModel& loaded,
                                  const ChatTemplate& chat) {
  const GenerationConfig config = load_generation_config(generation_directory(loaded));
  ChatSession::Settings settings{.sampling = sampling_of(a, config, loaded),
                                 .max_new_tokens = a.max_new_tokens};
  settings.end_ids = config.eos_ids.empty() ? loaded.model->config().eos_ids : config.eos_ids;
  if (const auto eos = loaded.tokenizer->eos_id()) settings.end_ids.push_back(*eos);
  const TurnEnd end = find_turn_end(chat, *loaded.tokenizer);
  if (end.id) {
    settings.end_ids.push_back(*end.id);
  } else if (!end.text.empty()) {
    settings.end_texts.push_back(end.text);
  }
  return settings;
}

void print_help() {
  fmt::print(
      "/system TEXT  begins anew with this system prompt; without TEXT, with none\n"
      "/clear        begins anew\n"
      "/help         this\n"
      "/exit         ends, as the end of the input does\n"
      "A line that ends in \\ goes on in the next. Ctrl-C ends an answer.\n");
}

// Carries out a line that begins with '/'; false if it ends the chat.
bool run_command(const std::string& line, ChatSession& session) {
  const std::size_t blank = line.find(' ');
  const std::string name = line.substr(0, blank);
  const std::string rest = blank == line.npos ? "" : line.substr(blank + 1);
  if (name == "/exit" || name == "/quit") return false;
  if (name == "/help") {
    print_help();
  } else if (name == "/clear") {
    session.clear();
  } else if (name == "/system") {
    session.set_system(rest);
  } else {
    spdlog::warn("unknown command {}; there are /system, /clear, /help, /exit", name);
  }
  std::fflush(stdout);
  return true;
}

void talk(ChatSession& session, bool terminal) {
  while (const std::optional<std::string> text = read_message(terminal)) {
    if (text->starts_with('/')) {
      if (!run_command(*text, session)) break;
      continue;
    }
    if (text->find_first_not_of(" \t\n") == text->npos) continue;
    interrupted = 0;
    try {
      const ChatReply reply = session.say(
          *text,
          [](const std::string& piece) {
            fmt::print("{}", piece);
            std::fflush(stdout);
          },
          [] { return interrupted != 0 || stop_requested(); });
      fmt::print("\n");
      std::fflush(stdout);
      if (reply.reason == "length")
        spdlog::info("cut off after {} tokens (--max-new-tokens)", reply.tokens);
      if (reply.reason == "context") spdlog::warn("no position is left; /clear begins anew");
    } catch (const UserError& e) {
      spdlog::warn("{}", e.what());
    }
    interrupted = 0;
    if (stop_requested()) break;
  }
  if (terminal) fmt::print("\n");
}

void run_chat(const ChatArguments& a) {
  std::int64_t capacity = 0;
  const LoadedModel loaded = load_model({a.model, a.adapters}, a.dtype, [&](LoadedModel& planned) {
    const std::int64_t longest = planned.model->config().max_positions;
    if (a.context > longest)
      throw_user("--context {}: the model has {} positions", a.context, longest);
    capacity = a.context > 0 ? a.context : std::min(longest, kUsualContext);
    Decoder decoder(*planned.arena, *planned.model, *planned.store, planned.dtype, capacity);
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(capacity))));
    decoder.clear();
    static_cast<void>(
        decoder.feed(std::vector<std::int32_t>(static_cast<std::size_t>(capacity - 1))));
    static_cast<void>(decoder.feed(std::vector<std::int32_t>(1)));
  });
  const std::filesystem::path& directory = loaded.directory;
  const auto chat =
      ChatTemplate::load(template_directory(loaded), *loaded.tokenizer, a.chat_template);
  if (!chat) {
    throw_user(
        "{} has no chat template; it is a base model, which `thimble generate` continues text "
        "with. --chat-template {} "
        "or a .jinja file gives it one",
        directory.string(), ChatTemplate::built_in_names());
  }
  install_stop_handlers();
  install_interrupt();
  Decoder decoder(*loaded.arena, *loaded.model, *loaded.store, loaded.dtype, capacity);
  ChatSession session(loaded, *chat, decoder, settings_of(a, loaded, *chat));
  session.set_system(a.system);
  const bool terminal = ::isatty(STDIN_FILENO) == 1 && ::isatty(STDOUT_FILENO) == 1;
  spdlog::info("{}, template {}, {} positions; /help lists the commands", directory.string(),
               chat->name(), capacity);
  talk(session, terminal);
}

}  // namespace

void add_chat_command(CLI::App& app, CommandSession& session) {
  auto a = std::make_shared<ChatArguments>();
  CLI::App* chat = app.add_subcommand("chat", "Talk with a model in the terminal");
  chat->add_option("model", a->model,
                   "Hugging Face directory, run, or adapter whose base model is there")
      ->required();
  chat->add_option("--adapter", a->adapters,
                   "Adapter to merge into the model, as of `generate` (repeatable)");
  chat->add_option("--system", a->system, "System prompt (default: none, or the template's)");
  chat->add_option("--chat-template", a->chat_template,
                   "tokenizer (the model's own), chatml, llama3, mistral, alpaca or a .jinja file");
  chat->add_option("--max-new-tokens", a->max_new_tokens, "Tokens of an answer at most")
      ->check(CLI::PositiveNumber);
  chat->add_option("--context", a->context,
                   "Positions of a conversation (default: the model's, at most 4096)")
      ->check(CLI::Range(std::int64_t{2}, std::int64_t{1} << 30));
  chat->add_option("--temperature", a->temperature,
                   "0: greedy (default: the model's generation_config.json, else 0)")
      ->check(CLI::NonNegativeNumber);
  chat->add_option("--top-k", a->top_k,
                   "Only the k likeliest tokens; 0: all (default: as --temperature)")
      ->check(CLI::NonNegativeNumber);
  chat->add_option("--top-p", a->top_p,
                   "Only the likeliest tokens that make up this share (default: as --temperature)")
      ->check(CLI::Range(1e-6, 1.0));
  chat->add_option("--repetition-penalty", a->repetition_penalty,
                   "1: none (default: as --temperature)")
      ->check(CLI::PositiveNumber);
  chat->add_option("--seed", a->seed, "Of the draws");
  chat->add_option("--dtype", a->dtype, "auto, bf16 or fp32")
      ->check(CLI::IsMember({"auto", "bf16", "fp32"}));
  chat->footer(
      "Examples:\n"
      "  thimble chat runs/tuned\n"
      "  thimble chat models/SmolLM2-135M-Instruct --system \"You are terse.\" --temperature 0.7\n"
      "  echo \"Hello\" | thimble chat runs/tuned");
  chat->callback([a, &session] {
    session.start();
    run_chat(*a);
  });
}

}  // namespace thimble
