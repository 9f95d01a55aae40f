// Reading the files of a tokenizer: whole small files, JSON with limits, and fields that know their
// own place for messages.
#pragma once

#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace thimble {

/// The whole file. Throws: UserError if it cannot be opened or is larger than a tokenizer can be
/// (128 MiB).
std::string read_tokenizer_file(const std::filesystem::path& path);

/// A place in a JSON document, together with how to name it. Views do not own: the JsonFile
/// outlives them.
class JsonField {
 public:
  JsonField(const nlohmann::json* value, const std::string* file, std::string path)
      : value_(value), file_(file), path_(std::move(path)) {}

  /// Absent or null.
  bool is_null() const;
  bool is_string() const;
  bool is_object() const;
  bool is_array() const;

  /// A member of this object; a null field if it is absent. Throws: UserError if this is not an
  /// object.
  JsonField operator[](std::string_view key) const;
  bool contains(std::string_view key) const;

  /// Throws: UserError unless the field has the type (an absent field gives the default where there
  /// is one).
  std::string string() const;
  std::int64_t integer(std::int64_t lowest, std::int64_t highest) const;
  bool boolean(bool if_absent) const;
  std::vector<JsonField> elements() const;
  std::vector<std::pair<std::string, JsonField>> members() const;

  /// Throws: UserError if this object has a key not listed, naming it.
  void only_keys(std::initializer_list<std::string_view> keys) const;

  /// "file: path", or "file" for the whole document.
  std::string where() const;
  const std::string& path() const { return path_; }
  const std::string& file() const { return *file_; }

 private:
  [[noreturn]] void mistyped(std::string_view expected) const;

  const nlohmann::json* value_;
  const std::string* file_;
  std::string path_;
};

/// A parsed JSON document, at most 64 levels deep.
class JsonFile {
 public:
  /// Throws: UserError for text that is not JSON.
  JsonFile(std::string_view text, std::string name);
  ~JsonFile();
  JsonField root() const;

 private:
  std::string name_;
  std::unique_ptr<nlohmann::json> document_;
};

}  // namespace thimble
