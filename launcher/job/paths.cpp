#include "launcher/job/paths.h"

#include <fmt/format.h>

#include <algorithm>
#include <fstream>

#include "core/base/error.h"
#include "core/base/text.h"
#include "data/built_in_templates.h"
#include "data/chat_template.h"

namespace thimble::job {
namespace {

namespace fs = std::filesystem;

const std::string& variable(const std::string& name, const Environment& environment) {
  const auto found = environment.find(name);
  if (found == environment.end()) throw_user("the variable {} is not set", printable(name));
  return found->second;
}

bool is_hub_name(std::string_view text) {
  const bool plain = std::all_of(text.begin(), text.end(), [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '.' ||
           c == '_' || c == '-';
  });
  return plain && !text.empty() && text.front() != '.' && text.front() != '-';
}

bool is_hub_id(std::string_view text) {
  const std::size_t slash = text.find('/');
  return slash != std::string_view::npos && is_hub_name(text.substr(0, slash)) &&
         is_hub_name(text.substr(slash + 1));
}

fs::path hub_cache(const Environment& environment) {
  const auto get = [&](const char* name) {
    const auto found = environment.find(name);
    return found == environment.end() ? std::string() : found->second;
  };
  if (const std::string cache = get("HF_HUB_CACHE"); !cache.empty()) return cache;
  if (const std::string home = get("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  return fs::path(get("HOME")) / ".cache" / "huggingface" / "hub";
}

bool is_there(const fs::path& path) {
  std::error_code ignored;
  return fs::exists(path, ignored);
}

bool is_glob(std::string_view path) {
  return path.find_first_of("*?[") != std::string_view::npos;
}

class PathResolver {
 public:
  PathResolver(const fs::path& job_folder, const Environment& environment)
      : job_folder_(job_folder), environment_(environment) {}

  /// The absolute path. Throws UserError with what is wrong with it.
  std::string resolve(const std::string& written, PathKind kind) const {
    const std::string expanded = expand_variables(written, environment_);
    if (kind == PathKind::kTokenizer && expanded == "byte") return expanded;
    if (kind == PathKind::kTemplate && is_template_name(expanded)) return expanded;
    const fs::path base = kind == PathKind::kOutput ? fs::current_path() : job_folder_;
    const fs::path path = (base / expanded).lexically_normal();
    if (kind == PathKind::kModel && is_there(path) && !is_there(path / "config.json"))
      return model_of_run(path);
    if (kind == PathKind::kOutput || kind == PathKind::kCache || is_there(path))
      return path.string();
    if (kind == PathKind::kInput && is_glob(expanded)) return path.string();
    if (kind == PathKind::kModel && is_hub_id(expanded)) return hub_snapshot(expanded, path);
    throw_user("{} does not exist{}", printable(path.string(), 200),
               kind == PathKind::kTemplate
                   ? fmt::format("; allowed: tokenizer, {} or a .jinja file",
                                 ChatTemplate::built_in_names())
                   : "");
  }

 private:
  static bool is_template_name(const std::string& text) {
    const auto built_in = built_in_templates();
    return text == "tokenizer" ||
           std::any_of(built_in.begin(), built_in.end(),
                       [&](const BuiltInTemplate& t) { return t.name == text; });
  }

  // The exported model of a run; what is no run is as it was written.
  static std::string model_of_run(const fs::path& path) {
    if (is_there(path / "model" / "config.json")) return (path / "model").string();
    if (is_there(path / "adapter_config.json") || is_there(path / "model" / "adapter_config.json"))
      throw_user("{} is an adapter; name its base model, and the adapter by adapter.path",
                 printable(path.string(), 200));
    if (is_there(path / "checkpoints")) {
      throw_user("{} is a run without an exported model; make one: thimble convert {} DIRECTORY",
                 printable(path.string(), 200), printable(path.string(), 200));
    }
    return path.string();
  }

  std::string hub_snapshot(const std::string& id, const fs::path& tried) const {
    const fs::path snapshot = find_in_hub_cache(id, environment_);
    if (!snapshot.empty()) return snapshot.string();
    throw_user("neither the directory {} nor in the Hub cache {}; run: hf download {}",
               printable(tried.string(), 200), printable(hub_cache(environment_).string(), 200),
               id);
  }

  const fs::path& job_folder_;
  const Environment& environment_;
};

}  // namespace

std::string expand_variables(std::string_view text, const Environment& environment) {
  std::string out;
  std::size_t i = 0;
  if (text == "~" || text.starts_with("~/")) {
    out = variable("HOME", environment);
    i = 1;
  }
  while (i < text.size()) {
    if (text.substr(i, 2) != "${") {
      out += text[i++];
      continue;
    }
    const std::size_t end = text.find('}', i);
    if (end == std::string_view::npos) throw_user("'${{' without '}}'");
    out += variable(std::string(text.substr(i + 2, end - i - 2)), environment);
    i = end + 1;
  }
  return out;
}

fs::path find_in_hub_cache(std::string_view id, const Environment& environment) {
  const std::size_t slash = id.find('/');
  if (!is_hub_id(id)) return {};
  const fs::path repository =
      hub_cache(environment) /
      fmt::format("models--{}--{}", id.substr(0, slash), id.substr(slash + 1));
  std::string revision;
  std::ifstream(repository / "refs" / "main") >> revision;
  if (is_hub_name(revision) && is_there(repository / "snapshots" / revision)) {
    return repository / "snapshots" / revision;
  }
  // Downloaded by revision: there is no ref, and one snapshot leaves no doubt.
  std::error_code error;
  fs::path only;
  int count = 0;
  for (fs::directory_iterator it(repository / "snapshots", error), end; !error && it != end;
       it.increment(error)) {
    only = it->path();
    ++count;
  }
  return count == 1 ? only : fs::path{};
}

void resolve_paths(JobDraft& draft, const fs::path& job_folder, const Environment& environment) {
  const PathResolver resolver(job_folder, environment);
  walk_fields(draft.config, [&](const std::string& key, Field& field) {
    if (field.path == PathKind::kNone || (draft.given(key) && !draft.usable(key))) return;
    const auto replace = [&](std::string& path) {
      if (path.empty()) return;
      try {
        path = resolver.resolve(path, field.path);
      } catch (const UserError& error) {
        draft.errors.add(draft.place_of(key), fmt::format("{} = \"{}\": {}", without_indices(key),
                                                          printable(path, 200), error.what()));
      }
    };
    if (auto* one = std::get_if<std::string*>(&field.value)) replace(**one);
    if (auto* many = std::get_if<std::vector<std::string>*>(&field.value)) {
      for (std::string& path : **many) replace(path);
    }
  });
}

}  // namespace thimble::job
