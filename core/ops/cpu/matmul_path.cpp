#include "core/ops/matmul_path.h"

#include <algorithm>
#include <atomic>

#include "core/base/error.h"
#include "core/base/threads.h"
#include "core/ops/cpu/isa_kernels.h"
#include "core/ops/op_observer.h"

namespace thimble {
namespace {

std::atomic<MatmulPath>& chosen_path() {
  static std::atomic<MatmulPath> chosen = fastest_path(measure_matmul_peaks(1));
  return chosen;
}

double measure_peak(const MatmulKernel& kernel, int threads) {
  constexpr std::int64_t kWork = 1 << 20;
  // Powering wide units takes some 50 us, waking other threads more.
  const double least_seconds = threads == 1 ? 2e-4 : 2e-3;
  const auto seconds_of = [&](std::int64_t rounds) {
    const std::int64_t start = steady_now_ns();
    parallel_for_each(threads, kWork, [&](std::int64_t) { kernel.spin(rounds); });
    return static_cast<double>(steady_now_ns() - start) * 1e-9;
  };
  std::int64_t rounds = 1024;
  while (seconds_of(rounds) < least_seconds) rounds *= 2;
  double least = seconds_of(rounds);
  for (int run = 0; run < 4; ++run) least = std::min(least, seconds_of(rounds));
  return threads * static_cast<double>(rounds) * kernel.flops_per_round / least;
}

}  // namespace

bool has_matmul_path(MatmulPath path) {
  return path == MatmulPath::kLibrary || matmul_kernel(path) != nullptr;
}

MatmulPath matmul_path() {
  return chosen_path();
}

void set_matmul_path(MatmulPath path) {
  TH_CHECK(has_matmul_path(path), "this CPU lacks the path {}", path_name(path));
  chosen_path() = path;
}

std::vector<MatmulPeak> measure_matmul_peaks(int threads) {
  std::vector<MatmulPeak> peaks;
  for (const MatmulPath path : kMatmulPaths) {
    const MatmulKernel* kernel = matmul_kernel(path);
    if (kernel != nullptr) peaks.push_back({path, measure_peak(*kernel, threads)});
  }
  return peaks;
}

MatmulPath fastest_path(const std::vector<MatmulPeak>& peaks) {
  constexpr double kClearly = 1.1;
  MatmulPeak best;
  for (const MatmulPeak& peak : peaks) {
    if (peak.flops_per_s > kClearly * best.flops_per_s) best = peak;
  }
  return best.path;
}

std::string matmul_advice(const std::vector<MatmulPeak>& peaks) {
  double f32 = 0;
  for (const MatmulPeak& peak : peaks) {
    if (peak.path == MatmulPath::kF32) f32 = peak.flops_per_s;
    if (peak.path == MatmulPath::kBf16 && peak.flops_per_s < f32 &&
        fastest_path(peaks) == MatmulPath::kF32) {
      return fmt::format(
          "this CPU's bf16 dot products reach {:.2f} of its f32 rate: bf16 matmuls are widened to "
          "f32",
          peak.flops_per_s / f32);
    }
  }
  return {};
}

}  // namespace thimble
