// Runs a fuzz target where there is no libFuzzer: so many inputs, each made of the corpus by random
// changes. It is told nothing of what they reach; inputs that crash are left in a file.
//
//     NAME_fuzz COUNT SEED CORPUS...      COUNT inputs of the files in the folders
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace {

constexpr std::size_t kMaxBytes = 65536;
constexpr unsigned kSecondsPerInput = 10;

std::string input;     // that runs now
std::string artifact;  // where it is left if it crashes

[[noreturn]] void leave(const char* why) {
  std::FILE* file = std::fopen(artifact.c_str(), "wb");
  if (file != nullptr) {
    std::fwrite(input.data(), 1, input.size(), file);
    std::fclose(file);
  }
  std::fprintf(stderr, "%s; the input is in %s\n", why, artifact.c_str());
  std::_Exit(1);
}

void on_signal(int signal) {
  leave(signal == SIGALRM ? "it takes too long" : "it crashes");
}

std::vector<std::string> files_in(int count, char** folders) {
  std::vector<std::filesystem::path> paths;
  for (int i = 0; i < count; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(folders[i]))
      paths.push_back(entry.path());
  }
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> out{""};
  for (const auto& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    out.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return out;
}

class Changes {
 public:
  Changes(std::vector<std::string> corpus, std::uint64_t seed)
      : corpus_(std::move(corpus)), random_(seed) {}

  std::string next() {
    std::string bytes = any();
    // Most inputs differ little from a file that is right.
    const std::size_t changes = std::size_t{1} << below(5);
    for (std::size_t i = 0; i < changes; ++i) change(bytes);
    if (bytes.size() > kMaxBytes) bytes.resize(kMaxBytes);
    return bytes;
  }

 private:
  std::size_t below(std::size_t n) { return n == 0 ? 0 : random_() % n; }
  const std::string& any() { return corpus_[below(corpus_.size())]; }
  char byte() { return static_cast<char>(below(256)); }

  void change(std::string& bytes) {
    const std::size_t at = below(bytes.size() + 1);
    if (bytes.empty() || below(8) == 0) {
      bytes.insert(at, std::string(1 + below(8), byte()));
      return;
    }
    const std::size_t in = below(bytes.size());
    switch (below(7)) {
      case 0:
        bytes[in] = static_cast<char>(bytes[in] ^ (1 << below(8)));
        return;
      case 1:
        bytes[in] = byte();
        return;
      case 2:
        bytes.erase(in, 1 + below(16));
        return;
      case 3:
        bytes.resize(in);
        return;
      case 4: {  // a number that is large, small, or near what it was
        constexpr std::uint64_t kNumbers[] = {0,
                                              1,
                                              0x7F,
                                              0xFF,
                                              0x7FFF,
                                              0xFFFF,
                                              0x7FFFFFFF,
                                              0xFFFFFFFF,
                                              0x7FFFFFFFFFFFFFFF,
                                              0xFFFFFFFFFFFFFFFF};
        const std::uint64_t number = kNumbers[below(std::size(kNumbers))] - below(3);
        const std::size_t width = std::size_t{1} << below(4);
        for (std::size_t i = 0; i < width && in + i < bytes.size(); ++i)
          bytes[in + i] = static_cast<char>(number >> (8 * i));
        return;
      }
      case 5: {  // a part of another file, or of the same
        const std::string& other = any();
        const std::size_t from = below(other.size());
        bytes.insert(in, other.substr(from, 1 + below(64)));
        return;
      }
      default:
        std::swap(bytes[in], bytes[below(bytes.size())]);
    }
  }

  std::vector<std::string> corpus_;
  std::mt19937_64 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fprintf(stderr, "usage: %s COUNT SEED CORPUS...\n", argv[0]);
    return 2;
  }
  const long count = std::atol(argv[1]);
  artifact = std::string(argv[0]) + ".input";
  const rlimit memory{std::size_t{4} << 30, std::size_t{4} << 30};
#ifndef __SANITIZE_ADDRESS__
  ::setrlimit(RLIMIT_AS, &memory);  // of a sanitizer's there is no end
#else
  static_cast<void>(memory);
#endif
  for (const int signal : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGILL, SIGALRM})
    std::signal(signal, on_signal);
  Changes changes(files_in(argc - 3, argv + 3), std::strtoull(argv[2], nullptr, 10));
  const auto begin = std::chrono::steady_clock::now();
  for (long i = 0; i < count; ++i) {
    input = changes.next();
    ::alarm(kSecondsPerInput);
    try {
      LLVMFuzzerTestOneInput(reinterpret_cast<const std::uint8_t*>(input.data()), input.size());
    } catch (const std::exception& e) {
      leave(e.what());
    }
  }
  ::alarm(0);
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  std::printf("%ld inputs in %.1f s\n", count, took.count());
  return 0;
}
