// Runs the built program in a directory of the test's own.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>

#include "core/io/file.h"
#include "tests/launcher/run_temp_dir.h"

namespace thimble {

/// A directory with a tiny model, a text and a job that trains in a second.
class ProgramDir {
 public:
  /// Some tests need a disk: std::filesystem::temp_directory_path().
  explicit ProgramDir(const std::filesystem::path& in = quick_temp_path())
      : dir_("thimble-program", in) {
    write(
        "config.json",
        R"({"model_type":"llama","hidden_size":64,"intermediate_size":160,"num_hidden_layers":2,)"
        R"("num_attention_heads":4,"num_key_value_heads":2,"vocab_size":257,"max_position_embeddings":128})");
    std::string text;
    for (int i = 0; i < 4000; ++i) text += "the " + std::to_string(i * 7919 % 1000) + " cats sat; ";
    write("text.txt", text);
    write("job.toml", R"(
[model]
config = "config.json"
tokenizer = "byte"
[data]
seq_len = 64
cache_dir = "cache"
val_set_size = 0.02
[[data.train]]
path = "text.txt"
[training]
max_steps = 6
global_batch_size = 8
[optimizer]
lr = 3e-3
[checkpoint]
save_steps = 2
[eval]
eval_steps = 100
)");
  }

  std::filesystem::path path(const std::string& name = "") const {
    return name.empty() ? dir_.path() : dir_.path() / name;
  }
  void write(const std::string& name, const std::string& text) const {
    std::ofstream(path(name)) << text;
  }
  std::string file(const std::string& name) const { return read_text_file(path(name), 1 << 26); }
  std::string out() const { return file("out.txt"); }
  std::string err() const { return file("err.txt"); }
  nlohmann::json json() const { return nlohmann::json::parse(out()); }

  /// The exit code, 128 + signal if it was killed; output in out.txt and err.txt. The variable
  /// THIMBLE_BINARY names another program than the one of this build.
  int run(const std::string& arguments, const std::string& environment = "") const {
    const char* const elsewhere = std::getenv("THIMBLE_BINARY");
    const std::string program = elsewhere != nullptr ? elsewhere : THIMBLE_BINARY;
    // In a TMPDIR of its own, with which goes what killed jobs of Open MPI leave there.
    const std::string here = dir_.path().string(),
                      command = "cd '" + here + "' && TMPDIR='" + here + "' " + environment + " '" +
                                program + "' " + arguments + " > out.txt 2> err.txt";
    const int status = std::system(command.c_str());
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
  }

 private:
  TempDir dir_;
};

}  // namespace thimble
