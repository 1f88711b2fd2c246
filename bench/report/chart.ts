/** Results as SVG charts: bars beside each other, or lines over what a case varies. */
import * as echarts from "echarts";
import type { Result, WorkloadResult } from "../suite.ts";
import { format } from "./table.ts";

const width = 900;
const barHeight = 34;
const margins = 110;
const lineHeight = 380;

function medianOf(result: Result | undefined, figure: string): number | null {
  return result?.figures?.[figure]?.median ?? null;
}

/** A workload's headline figure as an SVG. */
export function chartOf(outcome: WorkloadResult): string {
  const { workload, results } = outcome;
  const [{ name, unit }] = workload.figures;
  const isLine = workload.xAxis !== undefined;
  const height = isLine ? lineHeight : margins + barHeight * results.length;
  const chart = echarts.init(null, null, { renderer: "svg", ssr: true, width, height });
  chart.setOption({
    animation: false,
    title: { text: `${workload.id}  ${workload.title}`, textStyle: { fontSize: 15 } },
    backgroundColor: "#fff",
    ...(isLine ? lines(outcome) : bars(results, name, unit)),
  });
  const svg = chart.renderToSVGString();
  chart.dispose();
  return svg;
}

function bars(results: readonly Result[], figure: string, unit: string) {
  const shown = results.filter((one) => one.figures !== undefined).toReversed();
  const isOneCase = new Set(results.map(({ caseName }) => caseName)).size === 1;
  return {
    grid: { left: 240, right: 90, top: 50, bottom: 40 },
    xAxis: { type: "value", name: unit, nameLocation: "middle", nameGap: 26 },
    yAxis: {
      type: "category",
      data: shown.map(({ system, caseName }) => (isOneCase ? system : `${system}, ${caseName}`)),
    },
    series: [
      {
        type: "bar",
        data: shown.map((one) => ({
          value: medianOf(one, figure),
          itemStyle: { color: one.system === "runlog" ? "#2563eb" : "#9ca3af" },
        })),
        label: {
          show: true,
          position: "right",
          formatter: ({ value }: { value: number }) => format(value),
        },
      },
    ],
  };
}

function lines({ workload, results }: WorkloadResult) {
  const [first] = workload.figures;
  const isOfFirstUnit = ({ unit }: { unit: string }) => unit === first.unit;
  return {
    grid: { left: 90, right: 200, top: 60, bottom: 50 },
    legend: { orient: "vertical", right: 10, top: 60 },
    xAxis: { type: "log", name: workload.xAxis, nameLocation: "middle", nameGap: 28 },
    yAxis: { type: "value", min: 0 },
    // Those that share the axis of the first one.
    series: workload.figures.filter(isOfFirstUnit).map(({ name, unit }) => ({
      type: "line",
      name: `${name}, ${unit}`,
      data: results
        .filter((one) => one.figures !== undefined)
        .map((one) => [one.x, medianOf(one, name)]),
    })),
  };
}
