// `thimble sweep`: a job over all combinations of some settings, each in a run of its own, and a
// table.
#include <fmt/core.h>
#include <spdlog/spdlog.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <set>

#include "core/base/error.h"
#include "core/base/text.h"
#include "launcher/commands/command.h"
#include "launcher/commands/job_arguments.h"
#include "launcher/run/signals.h"

namespace thimble {
namespace {

namespace fs = std::filesystem;

struct Choice {
  std::string key;
  std::vector<std::string> values;
};

// "optimizer.lr=1e-4,3e-4": commas within brackets or quotes belong to a value.
Choice parse_choice(const std::string& text) {
  const std::size_t equals = text.find('=');
  if (equals == std::string::npos || equals == 0)
    throw_user("--set {}: allowed KEY=VALUE[,VALUE...]", printable(text));
  Choice choice{.key = text.substr(0, equals), .values = {""}};
  int depth = 0;
  char quote = 0;
  for (const char c : text.substr(equals + 1)) {
    if (quote != 0) {
      quote = c == quote ? '\0' : quote;
    } else if (c == '"' || c == '\'') {
      quote = c;
    } else if (c == '[' || c == '{') {
      ++depth;
    } else if (c == ']' || c == '}') {
      --depth;
    } else if (c == ',' && depth == 0) {
      choice.values.emplace_back();
      continue;
    }
    choice.values.back() += c;
  }
  for (const std::string& v : choice.values) {
    if (v.empty()) throw_user("--set {}: a value is empty", printable(text));
  }
  return choice;
}

std::string unquoted(const std::string& value) {
  const bool quoted = value.size() >= 2 && value.front() == value.back() &&
                      (value.front() == '"' || value.front() == '\'');
  return quoted ? value.substr(1, value.size() - 2) : value;
}

struct Combination {
  std::string name;                 // of the run
  std::vector<std::string> sets;    // KEY=VALUE
  std::vector<std::string> chosen;  // the values of the keys that vary
};

// Runs are named after the value that `name` is set to, or else after the job.
std::vector<Combination> named(const std::string& base, const std::vector<Choice>& choices) {
  std::vector<Combination> all{{.name = base}};
  for (const Choice& choice : choices) {
    if (choice.key != "name") continue;
    all.clear();
    for (const std::string& value : choice.values) {
      all.push_back({.name = unquoted(value)});
      if (choice.values.size() > 1) all.back().chosen.push_back(value);
    }
  }
  return all;
}

std::vector<Combination> combinations(const std::string& base, const std::vector<Choice>& choices) {
  std::vector<Combination> all = named(base, choices);
  for (const Choice& choice : choices) {
    if (choice.key == "name") continue;
    const bool varies = choice.values.size() > 1;
    const std::string short_key = choice.key.substr(choice.key.rfind('.') + 1);
    std::vector<Combination> next;
    for (const Combination& c : all) {
      for (const std::string& value : choice.values) {
        Combination longer = c;
        longer.sets.push_back(choice.key + "=" + value);
        if (varies) {
          std::string plain = value;
          std::replace(plain.begin(), plain.end(), '/', '_');
          longer.name += "-" + short_key + "=" + plain;
          longer.chosen.push_back(value);
        }
        next.push_back(std::move(longer));
      }
    }
    all = std::move(next);
  }
  std::set<std::string> names;
  for (const Combination& c : all) {
    if (!names.insert(c.name).second)
      throw_user("two runs would be named {}: each needs a name of its own", printable(c.name));
  }
  return all;
}

// The directory of a combination's run. A combination that cannot be loaded has none: it is refused
// when it is started.
fs::path output_of(const JobArguments& arguments, const Combination& c, const fs::path& otherwise) {
  JobArguments one = arguments;
  one.sets = c.sets;
  try {
    return load_job_arguments(one, false).output_dir;
  } catch (const UserError&) {
    return otherwise;
  }
}

// Runs `thimble train` in a process of its own, so that a signal can stop it alone, and returns its
// exit code.
int train(const std::string& job, const Combination& c, bool quiet) {
  std::vector<std::string> words{fs::read_symlink("/proc/self/exe").string()};
  if (quiet) words.emplace_back("--quiet");
  words.insert(words.end(), {"train", job, "--set", "name=" + c.name});
  for (const std::string& set : c.sets) words.insert(words.end(), {"--set", set});
  const pid_t child = ::fork();
  if (child < 0) throw_errno("fork", "train");
  if (child == 0) {
    ::setpgid(0, 0);  // a signal of the terminal is passed on once, by us
    ::prctl(PR_SET_PDEATHSIG, SIGTERM);
    std::vector<char*> argv;
    for (std::string& word : words) argv.push_back(word.data());
    argv.push_back(nullptr);
    ::execv(argv[0], argv.data());
    ::_exit(127);
  }
  int status = 0;
  bool told = false;
  while (::waitpid(child, &status, WNOHANG) == 0) {
    if (stop_requested() && !told) {
      ::kill(child, SIGUSR1);  // it saves
      told = true;
    }
    ::usleep(50'000);
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

struct Result {
  int exit_code = 0;
  std::int64_t steps = 0;
  std::optional<double> loss, eval_loss, best_eval_loss;
  double tokens_per_s = 0;  // median over the steps
};

Result read_result(const fs::path& metrics, int exit_code) {
  Result result{.exit_code = exit_code};
  std::ifstream in(metrics);
  std::vector<double> rates;
  for (std::string line; std::getline(in, line);) {
    const auto json = nlohmann::json::parse(line, nullptr, false);
    if (!json.is_object()) continue;  // the last line of a killed run
    const std::string event = json.value("event", "");
    const auto number = [&](const char* key) -> std::optional<double> {
      const auto found = json.find(key);
      return found != json.end() && found->is_number() ? std::optional(found->get<double>())
                                                       : std::nullopt;
    };
    if (event == "step") {
      result.steps = json.value("step", std::int64_t{0});
      result.loss = number("loss");
      rates.push_back(number("tokens_per_s").value_or(0));
    } else if (event == "eval") {
      result.eval_loss = number("eval_loss");
      if (result.eval_loss &&
          (!result.best_eval_loss || *result.eval_loss < *result.best_eval_loss))
        result.best_eval_loss = result.eval_loss;
    }
  }
  if (!rates.empty()) {
    const auto middle = rates.begin() + static_cast<std::ptrdiff_t>(rates.size() / 2);
    std::nth_element(rates.begin(), middle, rates.end());
    result.tokens_per_s = *middle;
  }
  return result;
}

void print_table(const std::vector<Combination>& all, const std::vector<Result>& results,
                 bool json) {
  std::size_t width = 4;
  for (const Combination& c : all) width = std::max(width, c.name.size());
  const auto text = [](const std::optional<double>& v) {
    return v ? fmt::format("{:.4f}", *v) : std::string("-");
  };
  std::vector<std::size_t> order(all.size());
  for (std::size_t i = 0; i < order.size(); ++i) order[i] = i;
  const auto rank = [&](std::size_t i) { return results[i].eval_loss.value_or(HUGE_VAL); };
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return rank(a) < rank(b); });
  if (!json) {
    fmt::print("{:<{}} {:>7} {:>10} {:>10} {:>10} {:>9} {:>5}\n", "run", width, "steps", "loss",
               "eval loss", "best eval", "tokens/s", "exit");
  }
  for (const std::size_t i : order) {
    const Result& r = results[i];
    if (json) {
      const auto value = [](const std::optional<double>& v) {
        return v ? nlohmann::ordered_json(*v) : nlohmann::ordered_json();
      };
      fmt::print("{}\n", nlohmann::ordered_json{{"run", all[i].name},
                                                {"set", all[i].sets},
                                                {"steps", r.steps},
                                                {"loss", value(r.loss)},
                                                {"eval_loss", value(r.eval_loss)},
                                                {"best_eval_loss", value(r.best_eval_loss)},
                                                {"tokens_per_s", r.tokens_per_s},
                                                {"exit_code", r.exit_code}}
                             .dump());
    } else {
      fmt::print("{:<{}} {:>7} {:>10} {:>10} {:>10} {:>9.0f} {:>5}\n", all[i].name, width, r.steps,
                 text(r.loss), text(r.eval_loss), text(r.best_eval_loss), r.tokens_per_s,
                 r.exit_code);
    }
  }
}

int run_sweep(const JobArguments& arguments, bool quiet) {
  std::vector<Choice> choices;
  for (const std::string& set : arguments.sets) choices.push_back(parse_choice(set));
  // The first values tell whether the job can be read at all, and where its runs go.
  JobArguments first = arguments;
  first.sets.clear();
  for (const Choice& c : choices) first.sets.push_back(c.key + "=" + c.values[0]);
  const job::JobConfig job = load_job_arguments(first, false);
  const std::vector<Combination> all = combinations(job.name, choices);
  install_stop_handlers();
  std::signal(SIGPIPE, SIG_IGN);  // a console that is closed ends no run
  std::vector<Result> results;
  int exit_code = 0;
  for (std::size_t i = 0; i < all.size(); ++i) {
    spdlog::info("run {} of {}: {}", i + 1, all.size(), all[i].name);
    const int code = train(arguments.file, all[i], quiet);
    const fs::path run = output_of(arguments, all[i], job.output_dir) / all[i].name;
    results.push_back(read_result(run / "metrics.jsonl", code));
    const bool saved = code == 0 || code == kExitStopped;
    if (!saved) {
      // A job that is refused leaves no directory behind.
      const fs::path logs = run / "logs";
      spdlog::warn("{}: ended with {}{}", all[i].name, code,
                   fs::exists(logs) ? "; its log is in " + logs.string() : "");
      exit_code = std::max(exit_code, code == 2 ? 2 : 1);
    }
    if (code == kExitStopped || stop_requested()) {
      if (saved) exit_code = kExitStopped;
      break;
    }
  }
  results.resize(all.size());
  print_table(all, results, arguments.json);
  return exit_code;
}

}  // namespace

void add_sweep_command(CLI::App& app, CommandSession& session) {
  auto arguments = std::make_shared<JobArguments>();
  CLI::App* sweep = app.add_subcommand(
      "sweep",
      "Train a job with every combination of some settings; continues where it was stopped");
  sweep->add_option("job", arguments->file, "Job file (TOML)")->required();
  sweep
      ->add_option("--set", arguments->sets,
                   "KEY=VALUE or KEY=VALUE,VALUE,...: every combination is a run (repeatable)")
      ->required()
      ->allow_extra_args(false);
  sweep->add_flag("--json", arguments->json, "One JSON object per run");
  sweep->footer(
      "Examples:\n"
      "  thimble sweep job.toml --set optimizer.lr=1e-4,3e-4,1e-3\n"
      "  thimble sweep job.toml --set optimizer.name=adamw,apollo --set optimizer.lr=1e-3,1e-2 "
      "--set "
      "seed=1,2\n"
      "Runs are named after the job (or --set name=X) and what varies. The same command again runs "
      "what is missing.");
  sweep->callback([arguments, &session] {
    session.start();
    session.exit_code = run_sweep(*arguments, session.quiet);
  });
}

}  // namespace thimble
